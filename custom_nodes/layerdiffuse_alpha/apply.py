# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that patch a model."""

from collections.abc import Sequence
from typing import Any

import comfy.conds
import comfy.model_patcher
import comfy.supported_models
import torch

from . import patch, weights
from .proof import Proof, weights_of
from .sd15 import SharingCache, apply_attention_sharing

PATCH_OF_CONFIG = {
    "SDXL, Attention Injection": "layer_xl_transparent_attn.safetensors",
    "SDXL, Conv Injection": "layer_xl_transparent_conv.safetensors",
}
SD15_CONFIG = "SD15, Attention Injection, attn_sharing"
SD15_PATCH = "layer_sd15_transparent_attn.safetensors"
WEIGHT = ("FLOAT", {"default": 1.0, "min": -1, "max": 3, "step": 0.05})
INPUT_CONV = "diffusion_model.input_blocks.0.0.weight"
LATENT_CHANNELS = 4

Conditioning = list[list[Any]]


class LayeredDiffusionApply:
    """Patches a model so that it samples latents with transparency.

    Weight 0 does not change an SDXL model, for checkpoints that scripts/merge-patch has made. For SD 1.5 the
    weight is ignored, as in the old pack.
    """

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "config": ([*PATCH_OF_CONFIG, SD15_CONFIG],),
                "weight": WEIGHT,
            },
            "optional": {"patch_name": weights.patch_input()},
        }

    def __init__(self) -> None:
        self._sharing: SharingCache = {}

    def apply(
        self,
        model: comfy.model_patcher.ModelPatcher,
        config: str,
        weight: float,
        patch_name: str = weights.AUTO,
    ) -> tuple[comfy.model_patcher.ModelPatcher]:
        """Returns a patched clone of `model`; `model` itself is not changed.

        Raises:
            FileNotFoundError: the patch file is missing.
            ValueError: the model's family is not the config's, its weights already contain the patch, or the
                file cannot be read.
            PatchError: any part of the patch does not fit the model.
        """
        if config == SD15_CONFIG:
            _check_family(model, config, "SD 1.5", (comfy.supported_models.SD15, comfy.supported_models.SD20))
            name = SD15_PATCH if patch_name == weights.AUTO else patch_name
            return (apply_attention_sharing(model, name, cache=self._sharing),)
        _check_family(model, config, "SDXL", comfy.supported_models.SDXL)
        if weight == 0:
            return (model.clone(),)
        merged = weights.merged_patch(model)
        if merged is not None:
            raise ValueError(f"the checkpoint already has {merged} in its weights, expected weight 0 with it")
        name = PATCH_OF_CONFIG[config] if patch_name == weights.AUTO else patch_name
        return (_patched(model, name, weight),)


class _ConditionedApply:
    """Base of the nodes whose model sees additional latents besides the one that it denoises."""

    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING")
    FUNCTION = "apply"
    CATEGORY = "layer_diffuse"
    PATCH_OF_CONFIG: dict[str, str]
    LATENTS: tuple[str, ...]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "cond": ("CONDITIONING",),
                "uncond": ("CONDITIONING",),
                **dict.fromkeys(cls.LATENTS, ("LATENT",)),
                "config": ([*cls.PATCH_OF_CONFIG],),
                "weight": WEIGHT,
            },
            "optional": {"patch_name": weights.patch_input()},
        }

    def _apply(
        self,
        model: comfy.model_patcher.ModelPatcher,
        conditionings: Sequence[Conditioning],
        latents: Sequence[torch.Tensor],
        config: str,
        weight: float,
        patch_name: str,
    ) -> tuple[Any, ...]:
        _check_family(model, config, "SDXL", comfy.supported_models.SDXL)
        shapes = {tuple(latent.shape) for latent in latents}
        if len(shapes) != 1 or latents[0].shape[1] != LATENT_CHANNELS:
            raise ValueError(f"latents have shapes {sorted(shapes)}, expected one of 4 channels")
        name = self.PATCH_OF_CONFIG[config] if patch_name == weights.AUTO else patch_name
        concatenated = model.model.latent_format.process_in(torch.cat(list(latents), dim=1))
        patched = _patched(model, name, weight, input_channels=LATENT_CHANNELS + concatenated.shape[1])
        return (patched, *(_with_latents(conditioning, concatenated) for conditioning in conditionings))


class LayeredDiffusionCondApply(_ConditionedApply):
    """Patches an SDXL model so that it blends a given foreground, or background, into a whole picture."""

    PATCH_OF_CONFIG = {
        "SDXL, Foreground": "layer_xl_fg2ble.safetensors",
        "SDXL, Background": "layer_xl_bg2ble.safetensors",
    }
    LATENTS = ("latent",)

    def apply(
        self,
        model: comfy.model_patcher.ModelPatcher,
        cond: Conditioning,
        uncond: Conditioning,
        latent: dict[str, torch.Tensor],
        config: str,
        weight: float,
        patch_name: str = weights.AUTO,
    ) -> tuple[Any, ...]:
        """Returns (patched clone of `model`, `cond` and `uncond` with the latent of the given layer).

        Raises:
            FileNotFoundError: the patch file is missing.
            ValueError: another family than SDXL, a latent of other channels, or a file that cannot be read.
            PatchError: any part of the patch does not fit the model, or it is for other inputs.
        """
        return self._apply(model, (cond, uncond), (latent["samples"],), config, weight, patch_name)


class LayeredDiffusionDiffApply(_ConditionedApply):
    """Patches an SDXL model so that it draws one layer of a whole picture, given the other layer."""

    PATCH_OF_CONFIG = {
        "SDXL, Foreground": "layer_xl_fgble2bg.safetensors",
        "SDXL, Background": "layer_xl_bgble2fg.safetensors",
    }
    LATENTS = ("blended_latent", "latent")

    def apply(
        self,
        model: comfy.model_patcher.ModelPatcher,
        cond: Conditioning,
        uncond: Conditioning,
        blended_latent: dict[str, torch.Tensor],
        latent: dict[str, torch.Tensor],
        config: str,
        weight: float,
        patch_name: str = weights.AUTO,
    ) -> tuple[Any, ...]:
        """Returns (patched clone of `model`, `cond` and `uncond` with the latents of layer and whole picture).

        Raises:
            FileNotFoundError: the patch file is missing.
            ValueError: another family than SDXL, latents of other shapes, or a file that cannot be read.
            PatchError: any part of the patch does not fit the model, or it is for other inputs.
        """
        latents = (latent["samples"], blended_latent["samples"])
        return self._apply(model, (cond, uncond), latents, config, weight, patch_name)


def _patched(
    model: comfy.model_patcher.ModelPatcher, name: str, weight: float, input_channels: int | None = None
) -> comfy.model_patcher.ModelPatcher:
    entries = patch.parse(weights.load(name))
    # The loaded model may still be patched, and wider, from another branch of the graph.
    unpatched = {key: values[0][0].shape for key, values in weights_of(model, (key for key, _ in entries)).items()}
    patch.check(entries, unpatched)
    if input_channels is not None:
        patch.check_input_channels(entries, INPUT_CONV, input_channels)
    patched = model.clone()
    added = patch.to_comfy(entries)
    for patches in added:
        patched.add_patches(patches, weight)
    if weight != 0:
        Proof(name, entries, added, weight).attach(patched)
    return patched


def _with_latents(conditioning: Conditioning, concatenated: torch.Tensor) -> Conditioning:
    """Returns a new conditioning that passes `concatenated` to the model together with the noise."""
    condition = {"c_concat": comfy.conds.CONDNoiseShape(concatenated)}
    return [
        [context, {**extra, "model_conds": {**extra.get("model_conds", {}), **condition}}]
        for context, extra in conditioning
    ]


def _check_family(model: comfy.model_patcher.ModelPatcher, config: str, family: str, kind: Any) -> None:
    found = model.model.model_config
    if not isinstance(found, kind):
        raise ValueError(f"config {config!r} needs an {family} model, got {type(found).__name__}")
