"""extra_model_paths.yaml: tells ComfyUI about weight files outside the models folder."""

import json
from pathlib import Path

from handler.settings import WeightSettings
from handler.weights import locate

NAME = "extra_model_paths.yaml"


def write(settings: WeightSettings, scratch: Path) -> Path | None:
    """Returns a file for `--extra-model-paths-config`, or None if all weights are in the models folder.

    Files of the hub's cache are linked in `scratch` under the names that workflows use.
    """
    folders = locate.volumes(settings)
    linked = scratch / "weights"
    for path, cached in locate.cached(settings).items():
        link = linked / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(cached)
    if linked.is_dir():
        folders.append(linked)
    if not folders:
        return None
    config = scratch / NAME
    # JSON is also YAML.
    config.write_text(json.dumps({f"folder_{number}": _kinds(folder) for number, folder in enumerate(folders)}))
    return config


def _kinds(folder: Path) -> dict[str, str]:
    """Returns ComfyUI's description of a folder that has one subfolder for each kind of model."""
    kinds = {kind.name: kind.name for kind in sorted(folder.iterdir()) if kind.is_dir()}
    return {**kinds, "base_path": str(folder)}
