"""Weights that are not in the models folder: on a volume, or in a cache of the Hugging Face hub such as RunPod's."""

import json
import re
from pathlib import Path, PurePosixPath

from handler.settings import Settings
from handler.weights import manifest
from handler.workflow.workflow import ModelFile

HUB_URL = re.compile(r"https://huggingface\.co/([^/]+)/([^/]+)/resolve/([0-9a-f]{40})/(.+)")
CONFIG = "extra_model_paths.yaml"


def find(file: ModelFile, settings: Settings) -> Path | None:
    """Returns where a weight file is: in the models folder, else on a volume, else in the hub's cache; or None."""
    for folder in (settings.models_dir, *volumes(settings)):
        place = folder / file.folder / file.name
        if place.is_file():
            return place
    return cached(settings).get(PurePosixPath(file.folder, file.name))


def volumes(settings: Settings) -> list[Path]:
    """Returns the folders of WEIGHTS_DIRS that are there."""
    folders = [Path(part) for part in settings.weights_dirs.split(":") if part]
    return [folder for folder in folders if folder.is_dir()]


def cached(settings: Settings) -> dict[PurePosixPath, Path]:
    """Returns the files of manifest.txt that the hub's cache has, by their path below models/.

    The cache has `models--<owner>--<name>/snapshots/<revision>/<file>`, as huggingface_hub writes it.
    """
    if not settings.hf_cache_dir.is_dir():
        return {}
    try:
        entries = manifest.read(settings.models_file)
    except manifest.BadList:  # `models list` says what is wrong with it
        return {}
    found = {}
    for entry in entries:
        for url in entry.urls:
            if match := HUB_URL.fullmatch(url):
                owner, name, revision, path = match.groups()
                place = settings.hf_cache_dir / f"models--{owner}--{name}" / "snapshots" / revision / path
                if place.is_file():
                    found[entry.path] = place
    return found


def write_config(settings: Settings, scratch: Path) -> Path | None:
    """Returns a file that tells ComfyUI of all weights that are elsewhere, or None where none are.

    What is in the hub's cache is linked in `scratch`, under the name that the workflow has.
    """
    folders = volumes(settings)
    linked = scratch / "weights"
    for path, place in cached(settings).items():
        link = linked / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place)
    if linked.is_dir():
        folders.append(linked)
    if not folders:
        return None
    config = scratch / CONFIG
    config.write_text(json.dumps({f"elsewhere_{number}": _kinds(folder) for number, folder in enumerate(folders)}))
    return config


def _kinds(folder: Path) -> dict[str, str]:
    """Returns ComfyUI's description of a folder that has one folder for each kind of model."""
    kinds = {kind.name: kind.name for kind in sorted(folder.iterdir()) if kind.is_dir()}
    return {**kinds, "base_path": str(folder)}
