# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes. Names, inputs, their order, options and outputs are those of huchenlei/ComfyUI-layerdiffuse
1.0.4, so that its workflows run unchanged; `patch_name` and `decoder_name` are ours, optional and last.
"""

import struct
import time
from dataclasses import asdict
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from server import PromptServer

from . import patch, png, weights
from .decoder import LATENT_LEVEL, SIDE_MULTIPLE, TransparentDecoder, decode_eight_views

PATCH_OF_CONFIG = {
    "SDXL, Attention Injection": "layer_xl_transparent_attn.safetensors",
    "SDXL, Conv Injection": "layer_xl_transparent_conv.safetensors",
}
SD15_CONFIG = "SD15, Attention Injection, attn_sharing"
DECODER_OF_VERSION = {"SDXL": "vae_transparent_decoder.safetensors"}
SD15_VERSION = "SD15"

LATENT_SCALE = 2**LATENT_LEVEL

# A websocket message of a picture: event 1 (the server adds it), format 2 = PNG, the bytes
# (ComfyUI 0.30 server.py send_image, protocol.py).
IMAGE_EVENT = 1
PNG_FORMAT = struct.pack(">I", 2)

weights.register_folder()


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


class LayeredDiffusionDecode:
    """Decodes a picture and its latent into straight foreground colour and alpha."""

    RETURN_TYPES: tuple[str, ...] = ("IMAGE", "MASK")
    FUNCTION = "decode"
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT",),
                "images": ("IMAGE",),
                "sd_version": ([SD15_VERSION, *DECODER_OF_VERSION], {"default": "SDXL"}),
                "sub_batch_size": ("INT", {"default": 16, "min": 1, "max": 4096, "step": 1}),
            },
            "optional": {
                "decoder_name": (
                    weights.choices(),
                    {"default": weights.AUTO, "tooltip": "auto: the file of the sd_version"},
                )
            },
        }

    def __init__(self) -> None:
        self._decoders: dict[str, comfy.model_patcher.ModelPatcher] = {}

    def decode(
        self,
        samples: dict[str, torch.Tensor],
        images: torch.Tensor,
        sd_version: str,
        sub_batch_size: int,
        decoder_name: str = weights.AUTO,
    ) -> tuple[torch.Tensor, ...]:
        """Returns (colour (B, H, W, 3), alpha (B, H, W)), both in [0, 1] and of the dtype of `images`."""
        rgba = self._decode_rgba(samples["samples"], images, sd_version, sub_batch_size, decoder_name)
        return rgba[..., :3], rgba[..., 3]

    def _decode_rgba(
        self, latent: torch.Tensor, images: torch.Tensor, sd_version: str, sub_batch_size: int, decoder_name: str
    ) -> torch.Tensor:
        if sd_version not in DECODER_OF_VERSION:
            raise ValueError(
                f"sd_version {sd_version!r} is not supported, expected one of {sorted(DECODER_OF_VERSION)}"
            )
        pixels = images[..., :3].movedim(-1, 1)
        _check_sizes(pixels, latent)
        patcher = self._decoder(DECODER_OF_VERSION[sd_version] if decoder_name == weights.AUTO else decoder_name)
        decoder, device, dtype = patcher.model, patcher.load_device, patcher.model_dtype()
        values = pixels[:sub_batch_size, 0].numel() * decoder.activations_per_pixel
        comfy.model_management.load_models_gpu([patcher], memory_required=values * dtype.itemsize)
        decoded = [
            decode_eight_views(decoder, part.to(device, dtype), part_latent.to(device, dtype)).to(images)
            for part, part_latent in zip(pixels.split(sub_batch_size), latent.split(sub_batch_size), strict=True)
        ]
        return torch.cat(decoded)[:, [1, 2, 3, 0]].movedim(1, -1)

    def _decoder(self, name: str) -> comfy.model_patcher.ModelPatcher:
        if name not in self._decoders:
            device = comfy.model_management.vae_device()
            dtype = comfy.model_management.vae_dtype(device, [torch.float16, torch.float32])
            decoder = TransparentDecoder.from_weights(weights.load(name)).to(dtype)
            self._decoders[name] = comfy.model_patcher.ModelPatcher(
                decoder, load_device=device, offload_device=comfy.model_management.vae_offload_device()
            )
        return self._decoders[name]


class LayeredDiffusionDecodeRGBA(LayeredDiffusionDecode):
    """Decodes a picture and its latent into one RGBA picture with straight alpha."""

    RETURN_TYPES = ("IMAGE",)

    def decode(
        self,
        samples: dict[str, torch.Tensor],
        images: torch.Tensor,
        sd_version: str,
        sub_batch_size: int,
        decoder_name: str = weights.AUTO,
    ) -> tuple[torch.Tensor, ...]:
        """Returns (RGBA (B, H, W, 4) in [0, 1],)."""
        return (self._decode_rgba(samples["samples"], images, sd_version, sub_batch_size, decoder_name),)


class SaveAlphaImageWebsocket:
    """Sends each RGBA picture as a PNG over the websocket and reports what its alpha is like.

    The `executed` message and the history carry, one entry a picture:
    `{"alpha": [{"transparent", "opaque", "mean", "width", "height", "size_bytes"}]}`.
    """

    RETURN_TYPES = ()
    FUNCTION = "send"
    OUTPUT_NODE = True
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Makes the node run every time: a cached result would send no picture."""
        return time.monotonic()

    def send(self, images: torch.Tensor) -> dict[str, Any]:
        """Raises ValueError where a picture has no alpha channel or values that are not finite."""
        if images.shape[-1] != 4:
            raise ValueError(f"images have {images.shape[-1]} channels, expected 4 (red, green, blue, alpha)")
        if not torch.isfinite(images).all():
            raise ValueError("images hold NaN or infinite values")
        server = PromptServer.instance
        reports = []
        for rgba in images:
            encoded = png.encode(rgba)
            server.send_sync(IMAGE_EVENT, PNG_FORMAT + encoded, server.client_id)
            height, width = rgba.shape[:2]
            sizes = {"width": width, "height": height, "size_bytes": len(encoded)}
            reports.append(asdict(png.alpha_statistics(rgba)) | sizes)
        return {"ui": {"alpha": reports}}


def _check_sizes(pixels: torch.Tensor, latent: torch.Tensor) -> None:
    height, width = pixels.shape[2:]
    if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
        raise ValueError(f"images are {width}x{height}, expected multiples of {SIDE_MULTIPLE}")
    expected = (pixels.shape[0], 4, height // LATENT_SCALE, width // LATENT_SCALE)
    if tuple(latent.shape) != expected:
        raise ValueError(f"samples have shape {tuple(latent.shape)}, expected {expected} for these images")


NODE_CLASS_MAPPINGS = {
    "LayeredDiffusionApply": LayeredDiffusionApply,
    "LayeredDiffusionDecode": LayeredDiffusionDecode,
    "LayeredDiffusionDecodeRGBA": LayeredDiffusionDecodeRGBA,
    "SaveAlphaImageWebsocket": SaveAlphaImageWebsocket,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "LayeredDiffusionApply": "Layer Diffuse Apply",
    "LayeredDiffusionDecode": "Layer Diffuse Decode",
    "LayeredDiffusionDecodeRGBA": "Layer Diffuse Decode (RGBA)",
    "SaveAlphaImageWebsocket": "Save Alpha Image (Websocket)",
}
