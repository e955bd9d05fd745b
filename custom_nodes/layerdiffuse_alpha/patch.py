# SPDX-License-Identifier: GPL-3.0-or-later
"""LayerDiffuse patch files: parsed, checked against a model, turned into ComfyUI patches.

A patch file maps `<model key>::<kind>::<index>` to a tensor. Kind `lora` has index 0 = up
(out, rank) and 1 = down (rank, in); kind `diff` has index 0 = a difference of the weight's own
shape or larger (the weight is then padded with zeros). Format: lllyasviel/LayerDiffuse,
huchenlei/ComfyUI-layerdiffuse 1.0.4.

If ComfyUI (comfy/lora.py and comfy/weight_adapter since 0.3.30) does not know a patch, or it does not
fit, it only logs that and samples without the patch. So everything is checked first.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from comfy.weight_adapter.lora import LoRAAdapter

SIZES = {"lora": 2, "diff": 1}
NAMED_FAULTS = 3

Entries = dict[tuple[str, str], list[torch.Tensor]]


class PatchError(ValueError):
    """A patch file that is malformed or does not fit the model."""


def parse(tensors: Mapping[str, torch.Tensor]) -> Entries:
    """Returns {(model key, kind): tensors by index}.

    Raises:
        PatchError: a name is not in the format, or an index is missing or superfluous.
    """
    found: dict[tuple[str, str], dict[int, torch.Tensor]] = defaultdict(dict)
    faults = []
    for name, tensor in tensors.items():
        model_key, _, rest = name.partition("::")
        kind, _, index = rest.partition("::")
        if kind not in SIZES or not index.isdecimal():
            faults.append(f"{name} is not <model key>::<lora or diff>::<index>")
        else:
            found[model_key, kind][int(index)] = tensor
    for (model_key, kind), parts in found.items():
        if sorted(parts) != list(range(SIZES[kind])):
            faults.append(f"{model_key}::{kind} has indices {sorted(parts)}, expected {list(range(SIZES[kind]))}")
    _raise_if(faults, "patch file is malformed")
    return {key: [parts[index] for index in sorted(parts)] for key, parts in found.items()}


def check(entries: Entries, shapes: Mapping[str, torch.Size]) -> None:
    """Checks that the model has a weight of a fitting shape for every entry.

    Args:
        entries: what `parse` returned.
        shapes: model key -> shape of the model's weight.

    Raises:
        PatchError: it does not; the message names the first few entries and counts the rest.
    """
    faults = []
    for (model_key, kind), parts in entries.items():
        shape = shapes.get(model_key)
        if shape is None:
            faults.append(f"{model_key} is not in the model")
        elif not _fits(kind, parts, shape):
            sizes = " and ".join(str(tuple(part.shape)) for part in parts)
            faults.append(f"{model_key}: {kind} of {sizes} does not fit the weight of {tuple(shape)}")
    _raise_if(faults, f"patch does not fit the model, {len(faults)} of {len(entries)} entries")


def check_input_channels(entries: Entries, key: str, channels: int) -> None:
    """Checks that a patch widens the model's input convolution to `channels` input channels.

    Raises:
        PatchError: it does not, so the model could not take these inputs.
    """
    diff = entries.get((key, "diff"))
    found = diff[0].shape[1] if diff else 4
    if found != channels:
        raise PatchError(f"patch is for {found} input channels, expected {channels}: it is the patch of another node")


def to_comfy(entries: Entries) -> list[dict[str, Any]]:
    """Returns patches for `ModelPatcher.add_patches`, one dict per kind, because both kinds may have the same key."""
    lora = {
        key: LoRAAdapter({key}, (parts[0], parts[1], None, None, None, None))
        for (key, kind), parts in entries.items()
        if kind == "lora"
    }
    diff = {key: ("diff", (parts[0], {"pad_weight": True})) for (key, kind), parts in entries.items() if kind == "diff"}
    return [patches for patches in (lora, diff) if patches]


def _fits(kind: str, parts: list[torch.Tensor], shape: torch.Size) -> bool:
    if kind == "diff":
        (diff,) = parts
        return diff.ndim == len(shape) and all(new >= old for new, old in zip(diff.shape, shape, strict=True))
    if min(part.ndim for part in parts) < 2:
        return False
    up, down = (part.flatten(1) for part in parts)
    return up.shape[1] == down.shape[0] and (up.shape[0], down.shape[1]) == (shape[0], shape[1:].numel())


def _raise_if(faults: list[str], what: str) -> None:
    if faults:
        more = f" (and {len(faults) - NAMED_FAULTS} more)" if len(faults) > NAMED_FAULTS else ""
        raise PatchError(f"{what}: {'; '.join(faults[:NAMED_FAULTS])}{more}")
