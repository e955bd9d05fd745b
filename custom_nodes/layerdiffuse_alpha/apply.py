# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that patch a model."""

from typing import Any

import comfy.model_patcher
import comfy.supported_models

from . import patch, weights

PATCH_OF_CONFIG = {
    "SDXL, Attention Injection": "layer_xl_transparent_attn.safetensors",
    "SDXL, Conv Injection": "layer_xl_transparent_conv.safetensors",
}
SD15_CONFIG = "SD15, Attention Injection, attn_sharing"


class LayeredDiffusionApply:
    """Patches an SDXL model so that it samples latents with transparency."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "config": ([*PATCH_OF_CONFIG, SD15_CONFIG],),
                "weight": ("FLOAT", {"default": 1.0, "min": -1, "max": 3, "step": 0.05}),
            },
            "optional": {
                "patch_name": (weights.choices(), {"default": weights.AUTO, "tooltip": "auto: the file of the config"})
            },
        }

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
            ValueError: another family than SDXL, or a file that cannot be read.
            PatchError: any part of the patch does not fit the model.
        """
        if config not in PATCH_OF_CONFIG:
            raise ValueError(f"config {config!r} is not supported, expected one of {sorted(PATCH_OF_CONFIG)}")
        if not isinstance(model.model.model_config, comfy.supported_models.SDXL):
            raise ValueError(f"config {config!r} needs an SDXL model, got {type(model.model.model_config).__name__}")
        name = PATCH_OF_CONFIG[config] if patch_name == weights.AUTO else patch_name
        entries = patch.parse(weights.load(name))
        patch.check(entries, {key: value.shape for key, value in model.model.state_dict().items()})
        patched = model.clone()
        for patches in patch.to_comfy(entries):
            patched.add_patches(patches, weight)
        return (patched,)
