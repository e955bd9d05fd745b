# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that patch an SD 1.5 model with attention sharing."""

import uuid
import weakref
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch

from . import weights
from .attention_sharing import (
    ATTENTIONS,
    COND_OVERWRITE,
    CONTROL,
    Control,
    SharedAttention,
    SharingLayer,
    check,
)
from .patch import PatchError

Conditioning = list[list[Any]]

JOINT_FRAMES = 3
COND_JOINT_FRAMES = 2
FILE_OF_JOINT_CONFIG = {"SD15, attn_sharing, Batch size (3N)": "layer_sd15_joint.safetensors"}
FILE_OF_COND_JOINT_CONFIG = {
    "SD15, Foreground, attn_sharing, Batch size (2N)": "layer_sd15_fg2bg.safetensors",
    "SD15, Background, attn_sharing, Batch size (2N)": "layer_sd15_bg2fg.safetensors",
}
# SD 2 models are compatible if their shapes are, otherwise `check` rejects them; the old pack accepts both.
FAMILIES = (comfy.supported_models.SD15, comfy.supported_models.SD20)


@dataclass(frozen=True)
class Sharing:
    """The layers that a patch file makes for one model, kept so that a new prompt or control reloads nothing."""

    model: "weakref.ref[comfy.model_base.BaseModel]"
    layers: list[SharingLayer]
    encoder: dict[str, torch.Tensor]
    size_bytes: int
    version: uuid.UUID


SharingCache = dict[tuple[str, int, bool], Sharing]


def apply_attention_sharing(
    model: comfy.model_patcher.ModelPatcher,
    file_name: str,
    frames: int = 1,
    control: torch.Tensor | None = None,
    cache: SharingCache | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """Returns a clone of `model` with the file's attention sharing; `model` itself is not changed.

    Args:
        file_name: a weight file in a `layer_model` folder.
        frames: pictures per scene; the latents' batch size must be a multiple.
        control: pictures (B, H, W, 3 or 4) in [0, 1], eight times the size of the latents; the file must
            have the weights for it.
        cache: kept by the caller, so that the next call can reuse the layers.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the model is not SD 1.5, or the file cannot be read.
        PatchError: the file does not fit the model, or the model already has such a patch.
    """
    config = model.model.model_config
    if not isinstance(config, FAMILIES):
        raise ValueError(f"{file_name} needs an SD 1.5 model, got {type(config).__name__}")
    attentions = [model.get_model_object(key) for key in ATTENTIONS]
    if any(isinstance(attention, SharedAttention) for attention in attentions):
        raise PatchError("the model already has an attention sharing patch, expected one without")
    cache = {} if cache is None else cache
    key = file_name, frames, control is not None
    sharing = cache.get(key)
    if sharing is None or sharing.model() is not model.model:
        sharing = _load(model.model, attentions, file_name, frames, control is not None)
        cache.clear()
        cache[key] = sharing
    patched = model.clone()
    for name, attention, layer in zip(ATTENTIONS, attentions, sharing.layers, strict=True):
        patched.add_object_patch(name, SharedAttention(attention, layer))
    # Object patches alone do not change size and version. ComfyUI 0.30 would then take a loaded model for
    # complete (model_patcher.py partially_load) and not move the new layers.
    patched.size = model.model_size() + sharing.size_bytes
    patched.patches_uuid = uuid.uuid5(sharing.version, str(model.patches_uuid))
    if control is not None:
        pixels = control[..., :3].movedim(-1, 1).to(model.load_device, torch.float32)
        patched.model_options["transformer_options"][CONTROL] = Control(pixels, sharing.encoder)
    return patched


class LayeredDiffusionJointApply:
    """Patches an SD 1.5 model so that it samples foreground, background and blended picture in one batch."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"model": ("MODEL",), "config": ([*FILE_OF_JOINT_CONFIG],)},
            "optional": {
                "fg_cond": ("CONDITIONING",),
                "bg_cond": ("CONDITIONING",),
                "blended_cond": ("CONDITIONING",),
                "patch_name": weights.patch_input(),
            },
        }

    def __init__(self) -> None:
        self._cache: SharingCache = {}

    def apply(
        self,
        model: comfy.model_patcher.ModelPatcher,
        config: str,
        fg_cond: Conditioning | None = None,
        bg_cond: Conditioning | None = None,
        blended_cond: Conditioning | None = None,
        patch_name: str = weights.AUTO,
    ) -> tuple[comfy.model_patcher.ModelPatcher]:
        """Returns (patched clone of `model`,); raises as `apply_attention_sharing` does."""
        conds = {"fg_cond": fg_cond, "bg_cond": bg_cond, "blended_cond": blended_cond}
        file_name = _file(FILE_OF_JOINT_CONFIG, config, patch_name)
        patched = apply_attention_sharing(model, file_name, JOINT_FRAMES, cache=self._cache)
        return (_with_conds(patched, conds),)


class LayeredDiffusionCondJointApply:
    """Patches an SD 1.5 model so that it samples, for a given foreground or background, the other and the blended."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"model": ("MODEL",), "image": ("IMAGE",), "config": ([*FILE_OF_COND_JOINT_CONFIG],)},
            "optional": {
                "cond": ("CONDITIONING",),
                "blended_cond": ("CONDITIONING",),
                "patch_name": weights.patch_input(),
            },
        }

    def __init__(self) -> None:
        self._cache: SharingCache = {}

    def apply(
        self,
        model: comfy.model_patcher.ModelPatcher,
        image: torch.Tensor,
        config: str,
        cond: Conditioning | None = None,
        blended_cond: Conditioning | None = None,
        patch_name: str = weights.AUTO,
    ) -> tuple[comfy.model_patcher.ModelPatcher]:
        """Returns (patched clone of `model`,); raises as `apply_attention_sharing` does."""
        file_name = _file(FILE_OF_COND_JOINT_CONFIG, config, patch_name)
        patched = apply_attention_sharing(model, file_name, COND_JOINT_FRAMES, image, self._cache)
        return (_with_conds(patched, {"cond": cond, "blended_cond": blended_cond}),)


def _file(file_of_config: dict[str, str], config: str, patch_name: str) -> str:
    if config not in file_of_config:
        raise ValueError(f"config {config!r} is not supported, expected one of {sorted(file_of_config)}")
    return file_of_config[config] if patch_name == weights.AUTO else patch_name


def _with_conds(
    patched: comfy.model_patcher.ModelPatcher, conds: dict[str, Conditioning | None]
) -> comfy.model_patcher.ModelPatcher:
    """Sets each frame's own positive prompt; the sampler passes `transformer_options` on to the attentions."""
    width = patched.get_model_object(ATTENTIONS[1]).to_k.in_features
    overwrites = []
    for name, cond in conds.items():
        tensor = None if cond is None else cond[0][0]
        if tensor is not None and tensor.shape[-1] != width:
            raise ValueError(f"{name} is {tensor.shape[-1]} wide, expected {width}, the model's")
        overwrites.append(tensor)
    patched.model_options["transformer_options"][COND_OVERWRITE] = overwrites
    return patched


def _load(
    model: comfy.model_base.BaseModel,
    attentions: list[torch.nn.Module],
    file_name: str,
    frames: int,
    control: bool,
) -> Sharing:
    tensors = weights.load(file_name)
    check(tensors, attentions, frames, control)
    dtype = model.get_dtype_inference()
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("kwargs_encoder.")}
    cast = {name: tensor.to(dtype) for name, tensor in tensors.items() if name not in encoder}
    layers = [SharingLayer(cast, index, frames).eval() for index in range(len(attentions))]
    size_bytes = sum(comfy.model_management.module_size(layer) for layer in layers)
    return Sharing(weakref.ref(model), layers, encoder, size_bytes, uuid.uuid4())
