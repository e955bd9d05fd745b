# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds and reads LayerDiffuse weights in ComfyUI's `layer_model` folders; never downloads."""

from pathlib import Path

import comfy.utils
import folder_paths
import torch

FOLDER = "layer_model"
AUTO = "auto"

# Known to ComfyUI after any folders of that name from extra_model_paths.yaml.
folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))


def choices() -> list[str]:
    """Returns "auto" and the names of all weight files that are there now."""
    return [AUTO, *folder_paths.get_filename_list(FOLDER)]


def load(name: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of the weight file `name`, on the CPU.

    Raises:
        FileNotFoundError: no `layer_model` folder has the file.
        ValueError: the file holds no tensors or cannot be read as weights.
    """
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise FileNotFoundError(f"models/{FOLDER}/{name} does not exist")
    try:
        tensors = comfy.utils.load_torch_file(path, safe_load=True)
    except Exception as exc:  # every format's reader raises its own kind
        raise ValueError(f"models/{FOLDER}/{name} cannot be read as weights: {exc}") from exc
    if not tensors:
        raise ValueError(f"models/{FOLDER}/{name} holds no tensors")
    return tensors
