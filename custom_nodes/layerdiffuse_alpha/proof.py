# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that ComfyUI applies a patch, by measuring the output of patched modules while they sample.

ComfyUI merges patches into the weights when it loads a model, or adds them at each cast, or quantises the
sum again. If it cannot use a patch, it only logs that, and the picture comes out opaque. So the first
sampling of a patched model compares the output of three of its modules with the expected output.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy.weight_adapter.lora import LoRAAdapter
from comfyui_version import __version__ as COMFYUI

from .measure import Measurement, measure
from .patch import Entries

NAME = "layerdiffuse_alpha"
MODULES = 3
WEIGHT = ".weight"
DIMENSIONS = (2, 4)  # of the weights of linear modules and of convolutions
LARGEST = 2**22  # values of a weight; larger ones would take memory that a full card does not have

# ComfyUI's record of a patch: strength, value, strength of the model, offset, function.
Record = tuple[float, Any, float, Any, Any]

log = logging.getLogger(NAME)


class PatchNotApplied(RuntimeError):
    """ComfyUI samples with a model that does not have the patch's effect."""


def weights_of(model: comfy.model_patcher.ModelPatcher, keys: Iterable[str]) -> dict[str, list[Any]]:
    """Returns {key: [(weight without patches, its conversion), *records]} for those of `keys` that the model has.

    It is `ModelPatcher.get_key_patches` for some keys. That one fails if any weight of the model is quantised,
    because it takes the weights' scales for parameters.
    """
    found = {}
    present = model.model_state_dict()
    for key in dict.fromkeys(keys):
        if key in present:
            weight, _, convert = comfy.model_patcher.get_key_weight(model.model, key)
            if backup := model.backup.get(key):
                weight = backup.weight
            if key in model.hook_backup:
                weight = model.hook_backup[key][0]
            found[key] = [(weight, convert or _unconverted), *model.patches.get(key, ())]
    return found


def _unconverted(weight: torch.Tensor, **_: Any) -> torch.Tensor:
    return weight


@dataclass(frozen=True)
class Expected:
    """The parts of a module's weight.

    Attributes:
        base: the weight without the patch but with all other patches, fp32, of the shape of `difference`.
        difference: what the patch adds, fp32.
        padded: whether the patch makes the weight larger.
        dtype: of the weight as it is stored.
    """

    base: torch.Tensor
    difference: torch.Tensor
    padded: bool
    dtype: torch.dtype


class Proof:
    """Checks that a patch is applied when the model that has it first samples.

    It reads outputs and changes nothing. Modules that another adapter changes in another way than by
    adding to their weight are not compared. If no module can be compared, the log says so.
    """

    def __init__(self, name: str, entries: Entries, patches: Sequence[Mapping[str, Any]], strength: float) -> None:
        """Takes the name of the patch, its entries, what `ModelPatcher.add_patches` got of them, its strength."""
        self._name = name
        self._entries = entries
        self._own = {id(value): value for by_key in patches for value in by_key.values()}
        self._strength = strength
        self._finished = False
        self._running = False

    def attach(self, model: comfy.model_patcher.ModelPatcher) -> None:
        """Has `model`, and every clone of it, checked when one of them first samples."""
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, NAME, self)

    def __call__(self, sample: WrapperExecutor, *args: Any, **kwargs: Any) -> Any:
        """Samples; ComfyUI calls this around the whole of a sampling.

        Raises:
            PatchNotApplied: a module returned what it does without the patch, or something else.
        """
        if self._finished or self._running:
            return sample(*args, **kwargs)
        self._running = True
        try:
            return self._sample(sample, *args, **kwargs)
        finally:
            self._running = False

    def _sample(self, sample: WrapperExecutor, *args: Any, **kwargs: Any) -> Any:
        model = sample.class_obj.model_patcher
        expected = self._expected(model)
        found: dict[str, Measurement] = {}
        with _uncompiled(), self._measured(model, expected, found):
            try:
                samples = sample(*args, **kwargs)
            except RuntimeError as exc:
                # PyTorch's own error if the convolution is not as wide as its input, and so as the patch makes it.
                for key, weight in expected.items():
                    narrow = weight.padded and key not in found
                    if narrow and type(exc) is RuntimeError and f"got {weight.base.shape[1]} channels" in str(exc):
                        raise PatchNotApplied(f"{self._refusal(key)}: {exc}") from exc
                raise
        self._finished = True
        conclusive = [measurement for measurement in found.values() if measurement.conclusive]
        if conclusive:
            shares = ", ".join(f"{measurement.share:.1%}" for measurement in conclusive)
            keys = len({key for key, _ in self._entries})
            log.info("%s is applied to %d keys: %s of its effect, expected 100%%", self._name, keys, shares)
        else:
            log.warning("not verified that ComfyUI applies %s: no module could be compared", self._name)
        return samples

    def _expected(self, model: comfy.model_patcher.ModelPatcher) -> dict[str, Expected]:
        """Returns the parts of up to three weights: a widened one if there is one, and others far apart."""
        weights = weights_of(model, (key for key, _ in self._entries))
        changed = set(model.weight_wrapper_patches).union(*model.hook_patches.values())
        alone, shared = [], []
        for key, ((weight, _), *records) in weights.items():
            others = [record for record in records if id(record[1]) not in self._own]
            fits = key.endswith(WEIGHT) and weight.ndim in DIMENSIONS and weight.numel() <= LARGEST
            if fits and key not in changed and len(others) < len(records):
                if not others:
                    alone.append(key)
                elif all(map(_adds, others)) and not self._is_padded(key, weight):
                    shared.append(key)
        keys = alone or shared
        padded = [key for key in keys if self._is_padded(key, weights[key][0][0])][:1]
        rest = [key for key in keys if key not in padded]
        count = min(MODULES - len(padded), len(rest))
        spread = [rest[index * (len(rest) - 1) // max(count - 1, 1)] for index in range(count)]
        return {key: self._made_of(key, weights[key], model.load_device) for key in padded + spread}

    def _is_padded(self, key: str, weight: torch.Tensor) -> bool:
        return any(diff.shape != weight.shape for diff in self._entries.get((key, "diff"), ()))

    def _made_of(self, key: str, records: list[Any], device: torch.device) -> Expected:
        (weight, convert), *records = records
        base = comfy.model_management.cast_to_device(weight, device, torch.float32, copy=True)
        base = convert(base, inplace=True)
        if others := [record for record in records if id(record[1]) not in self._own]:
            base = comfy.lora.calculate_weight(others, base, key)
        difference = torch.zeros_like(base)
        if lora := self._entries.get((key, "lora")):
            up, down = (part.to(device, torch.float32).flatten(1) for part in lora)
            difference += (up @ down).reshape(base.shape)
        for diff in self._entries.get((key, "diff"), ()):
            base, difference = (_padded(tensor, diff.shape) for tensor in (base, difference))
            difference += diff.to(device, torch.float32)
        padded = base.shape != weight.shape
        return Expected(base, self._strength * difference, padded, weight.dtype)

    def _refusal(self, key: str) -> str:
        return f"this ComfyUI ({COMFYUI}) does not apply the patch {self._name} to {key}"

    @contextmanager
    def _measured(
        self, model: comfy.model_patcher.ModelPatcher, expected: Mapping[str, Expected], found: dict[str, Measurement]
    ) -> Iterator[None]:
        """Fills `found` with a measurement of each module the first time that it runs within the block."""

        def hook(key: str, module: torch.nn.Module, given: tuple[Any, ...], returned: torch.Tensor) -> None:
            if key in found or not given or torch.compiler.is_compiling():
                return
            weight = expected[key]
            found[key] = measure(module, given[0], returned, weight.base, weight.difference, weight.dtype)
            if found[key].conclusive and not found[key].applied:
                raise PatchNotApplied(
                    f"{self._refusal(key)}: the module returned {found[key].share:.0%} of its effect, "
                    f"expected 100% (within {found[key].tolerance:.0%})"
                )

        handles = [
            model.get_model_object(key.removesuffix(WEIGHT)).register_forward_hook(partial(hook, key))
            for key in expected
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _uncompiled() -> AbstractContextManager[None]:
    """Has torch.compile run everything as it is written, since compiled modules call no hooks (PyTorch 2.6)."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


def _adds(record: Record) -> bool:
    """Returns whether a patch of another adapter adds to the weight something that does not depend on it."""
    _, value, strength_of_model, offset, function = record
    if isinstance(value, LoRAAdapter):
        *_, dora_scale, reshape = value.weights
        plain = dora_scale is None and reshape is None
    else:
        plain = isinstance(value, tuple) and (len(value) == 1 or value[0] == "diff")
    return plain and strength_of_model == 1 and offset is None and function is None


def _padded(weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Returns the weight with zeros after its values in each dimension, as large as `shape`."""
    larger = weight.new_zeros(shape)
    larger[tuple(map(slice, weight.shape))] = weight
    return larger
