"""Textual inversions: the files under models/embeddings/ that a prompt names with `embedding:name`.

ComfyUI ignores one that it does not find, or that does not fit the model, and draws something else. Files are looked
for as ComfyUI 0.30 does (comfy/sd1_clip.py load_embed).
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from handler.settings import WeightSettings
from handler.weights import header, locate
from handler.workflow.workflow import ModelFile

FOLDER = "embeddings"
SUFFIXES = ("", ".safetensors", ".pt", ".bin")
# The tensors of an SDXL checkpoint whose last dimension is the width of a text encoder, by an embedding's key for it.
TOKENS = {
    "clip_l": "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "clip_g": "conditioner.embedders.1.model.token_embedding.weight",
}


def fault(name: str, models: Iterable[ModelFile], settings: WeightSettings) -> str | None:
    """Returns what is wrong with an embedding, or None if it can be used.

    Args:
        name: as it stands in a prompt, commas at either end included.
        models: the workflow's weight files; a checkpoint's text encoders must fit a safetensors file.
    """
    path = find(name, settings)
    if path is None:
        return "does not exist"
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        shapes = header.shapes(header.read(path))
    except header.BadHeader as exc:
        return f"cannot be used: {exc}"
    widths = _widths(models, settings)
    used = {key: shapes[key] for key in widths if key in shapes}
    if len(shapes) == 1:  # all encoders use this tensor
        used = dict.fromkeys(widths, *shapes.values())
    unfit = [shape for key, shape in used.items() if shape[-1:] != (widths[key],)]
    if not unfit:
        return None
    wanted = " and ".join(f"{width} ({key})" for key, width in widths.items())
    return f"has shape {list(unfit[0])}, expected width {wanted}"


def find(name: str, settings: WeightSettings) -> Path | None:
    """Returns the file of an embedding, with commas at the ends of its name or without them; None if it is missing."""
    folders = [folder / FOLDER for folder in (settings.models_dir, *locate.volumes(settings))]
    for candidate in dict.fromkeys((name, name.strip(","))):
        for top in folders:
            for folder, _, _ in os.walk(top.absolute(), followlinks=True):
                for suffix in SUFFIXES:
                    path = os.path.abspath(Path(folder, candidate + suffix))  # noqa: PTH100 -- links are not followed
                    # A name may contain folders, but must not leave this one; isfile() is false for odd names.
                    if path.startswith(folder + os.sep) and os.path.isfile(path):  # noqa: PTH113
                        return Path(path)
    return None


def _widths(models: Iterable[ModelFile], settings: WeightSettings) -> dict[str, int]:
    """Returns the width of each text encoder of the workflow's checkpoint; empty if the file is missing."""
    widths: dict[str, int] = {}
    for found in filter(None, (locate.find(file, settings) for file in models)):
        with contextlib.suppress(header.BadHeader):  # the job will fail, and say so
            shapes = header.shapes(header.read(found.path))
            widths |= {key: shapes[tensor][-1] for key, tensor in TOKENS.items() if tensor in shapes}
    return widths
