# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds and reads LayerDiffuse weights in ComfyUI's `layer_model` folders; never downloads."""

import json
from pathlib import Path

import comfy.model_patcher
import comfy.utils
import folder_paths
import safetensors
import torch

MERGED = "layerdiffuse_merged"  # metadata entry of a checkpoint that contains a patch
FOLDER = "layer_model"
AUTO = "auto"

# Known to ComfyUI after any folders of that name from extra_model_paths.yaml.
folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))


def choices() -> list[str]:
    """Returns "auto" and the names of all weight files that exist now."""
    return [AUTO, *folder_paths.get_filename_list(FOLDER)]


def patch_input() -> tuple[list[str], dict[str, str]]:
    """Returns the additional input of the patching nodes: the patch file."""
    return choices(), {"default": AUTO, "tooltip": "auto: the file of the config"}


def merged_patch(model: comfy.model_patcher.ModelPatcher) -> str | None:
    """Returns the name of the patch that scripts/merge-patch put into the model's checkpoint, if any.

    ComfyUI drops a checkpoint's metadata, but a model knows the file that it came from
    (`cached_patcher_init`, ComfyUI 0.30 comfy/sd.py). If it does not, the result is None.
    """
    try:
        path = model.cached_patcher_init[1][0]
        with safetensors.safe_open(path, "pt") as checkpoint:
            entry = (checkpoint.metadata() or {}).get(MERGED)
        return None if entry is None else str(json.loads(entry)["patch"])
    except (AttributeError, TypeError, IndexError, KeyError, ValueError, OSError, safetensors.SafetensorError):
        return None


def load(name: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of the weight file `name`, on the CPU.

    Raises:
        FileNotFoundError: no `layer_model` folder has the file.
        ValueError: the file has no tensors or cannot be read as weights.
    """
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise FileNotFoundError(f"models/{FOLDER}/{name} does not exist")
    try:
        tensors = comfy.utils.load_torch_file(path, safe_load=True)
    except Exception as exc:  # every format's reader raises its own kind
        raise ValueError(f"models/{FOLDER}/{name} cannot be read as weights: {exc}") from exc
    if not tensors:
        raise ValueError(f"models/{FOLDER}/{name} has no tensors")
    return tensors
