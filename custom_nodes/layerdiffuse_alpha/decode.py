# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that decode a picture and its latent into colour and alpha."""

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from . import weights
from .decoder import LATENT_LEVEL, SIDE_MULTIPLE, TransparentDecoder, decode_eight_views

DECODER_OF_VERSION = {"SDXL": "vae_transparent_decoder.safetensors"}
SD15_VERSION = "SD15"
LATENT_SCALE = 2**LATENT_LEVEL


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


def _check_sizes(pixels: torch.Tensor, latent: torch.Tensor) -> None:
    height, width = pixels.shape[2:]
    if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
        raise ValueError(f"images are {width}x{height}, expected multiples of {SIDE_MULTIPLE}")
    expected = (pixels.shape[0], 4, height // LATENT_SCALE, width // LATENT_SCALE)
    if tuple(latent.shape) != expected:
        raise ValueError(f"samples have shape {tuple(latent.shape)}, expected {expected} for these images")
