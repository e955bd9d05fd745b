# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that decode a picture and its latent into colour and alpha."""

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from . import views, weights
from .decoder import LATENT_LEVEL, SIDE_MULTIPLE, TransparentDecoder

DECODER_OF_VERSION = {
    "SD15": "layer_sd15_vae_transparent_decoder.safetensors",
    "SDXL": "vae_transparent_decoder.safetensors",
}
LATENT_SCALE = 2**LATENT_LEVEL
MOST_FRAMES = 3
CPU_BATCH_BYTES = 128 << 20

REQUIRED = {
    "sd_version": (list(DECODER_OF_VERSION), {"default": "SDXL"}),
    "sub_batch_size": ("INT", {"default": 16, "min": 1, "max": 4096, "step": 1}),
}


def optional_inputs() -> dict[str, Any]:
    """Returns the additional inputs: the decoder, and the number of views that vote."""
    return {
        "decoder_name": (weights.choices(), {"default": weights.AUTO, "tooltip": "auto: the file of the sd_version"}),
        "passes": (
            [*views.ORIENTATIONS],
            {"default": 8, "tooltip": "views that vote on each pixel; fewer are faster, with rougher edges"},
        ),
    }


class LayeredDiffusionDecode:
    """Decodes a picture and its latent into straight foreground colour and alpha."""

    RETURN_TYPES: tuple[str, ...] = ("IMAGE", "MASK")
    FUNCTION = "decode"
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "images": ("IMAGE",), **REQUIRED}, "optional": optional_inputs()}

    def __init__(self) -> None:
        self._decoders: dict[str, comfy.model_patcher.ModelPatcher] = {}

    def decode(
        self,
        samples: dict[str, torch.Tensor],
        images: torch.Tensor,
        sd_version: str,
        sub_batch_size: int,
        decoder_name: str = weights.AUTO,
        passes: int = 8,
    ) -> tuple[torch.Tensor, ...]:
        """Returns (colour (B, H, W, 3), alpha (B, H, W)), both in [0, 1] and of the dtype of `images`."""
        return self._outputs(
            self._decode_rgba(samples["samples"], images, sd_version, sub_batch_size, decoder_name, passes)
        )

    def _outputs(self, rgba: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return rgba[..., :3], rgba[..., 3]

    def _decode_rgba(
        self,
        latent: torch.Tensor,
        images: torch.Tensor,
        sd_version: str,
        sub_batch_size: int,
        decoder_name: str,
        passes: int,
    ) -> torch.Tensor:
        pixels = images[..., :3].movedim(-1, 1)
        _check_sizes(pixels, latent)
        patcher = self._decoder(DECODER_OF_VERSION[sd_version] if decoder_name == weights.AUTO else decoder_name)
        device, dtype = patcher.load_device, patcher.model_dtype()
        view_bytes = pixels[:sub_batch_size, 0].numel() * patcher.model.activations_per_pixel * dtype.itemsize
        comfy.model_management.load_models_gpu([patcher], memory_required=view_bytes)
        decoded = [
            _vote(patcher.model, part.to(device, dtype), part_latent.to(device, dtype), passes, view_bytes).to(images)
            for part, part_latent in zip(pixels.split(sub_batch_size), latent.split(sub_batch_size), strict=True)
        ]
        return torch.cat(decoded)[:, [1, 2, 3, 0]].movedim(1, -1)

    def _decoder(self, name: str) -> comfy.model_patcher.ModelPatcher:
        if name not in self._decoders:
            device = comfy.model_management.vae_device()
            dtype = comfy.model_management.vae_dtype(device, [torch.float16, torch.float32])
            decoder = TransparentDecoder.from_weights(weights.load(name)).to(dtype)
            if comfy.model_management.is_device_cpu(device):
                decoder = decoder.to(memory_format=torch.channels_last)
            self._decoders[name] = comfy.model_patcher.ModelPatcher(
                decoder, load_device=device, offload_device=comfy.model_management.vae_offload_device()
            )
        return self._decoders[name]


class LayeredDiffusionDecodeRGBA(LayeredDiffusionDecode):
    """Decodes a picture and its latent into one RGBA picture, (B, H, W, 4) in [0, 1], with straight alpha."""

    RETURN_TYPES = ("IMAGE",)

    def _outputs(self, rgba: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (rgba,)


class LayeredDiffusionDecodeSplit(LayeredDiffusionDecode):
    """Splits a batch with several frames per picture; the first frame of each picture has alpha."""

    RETURN_TYPES = ("IMAGE",) * MOST_FRAMES

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        frames = ("INT", {"default": 2, "min": 2, "max": MOST_FRAMES, "step": 1})
        required = {"samples": ("LATENT",), "images": ("IMAGE",), "frames": frames, **REQUIRED}
        return {"required": required, "optional": optional_inputs()}

    def decode(  # type: ignore[override]
        self,
        samples: dict[str, torch.Tensor],
        images: torch.Tensor,
        frames: int,
        sd_version: str,
        sub_batch_size: int,
        decoder_name: str = weights.AUTO,
        passes: int = 8,
    ) -> tuple[torch.Tensor | None, ...]:
        """Returns (first frames as RGBA (N, H, W, 4), second frames (N, H, W, 3), third frames or None).

        Args:
            images: (frames x N, H, W, 3), the frames of one picture next to each other.
        """
        if len(images) % frames:
            raise ValueError(f"images are {len(images)}, expected a multiple of {frames} frames")
        latent = samples["samples"][::frames]
        first = self._decode_rgba(latent, images[::frames], sd_version, sub_batch_size, decoder_name, passes)
        others = [images[frame::frames] for frame in range(1, frames)]
        return (first, *others, *[None] * (MOST_FRAMES - frames))


def _vote(
    decoder: TransparentDecoder, pixels: torch.Tensor, latent: torch.Tensor, passes: int, view_bytes: int
) -> torch.Tensor:
    """Returns the result of `views.decode`, with the number of views per batch that is fastest on the device.

    On a CPU, a small decoder is slowed down by its calls, a large one by memory. Eight views at once take 0.44 of the
    time with the tiny decoder at 64x64, 0.70 at 128x128 and 0.99 at 256x256; with the full-size one at 512x512, 1.7.
    So they are one batch if their activations are few, and are decoded one at a time otherwise.

    Other devices decode as many views at once as fit in free memory. If memory runs out all the same, they are decoded
    one at a time, as in the old pack.
    """
    if comfy.model_management.is_device_cpu(pixels.device):
        latent, pixels = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (latent, pixels))
        fits = passes * view_bytes <= CPU_BATCH_BYTES
        return views.decode(decoder, pixels, latent, passes, at_once=passes if fits else 1)
    fit = int(comfy.model_management.get_free_memory(pixels.device) // view_bytes)
    try:
        return views.decode(decoder, pixels, latent, passes, at_once=min(max(fit, 1), passes))
    except comfy.model_management.OOM_EXCEPTION:
        comfy.model_management.soft_empty_cache()
    return views.decode(decoder, pixels, latent, passes, at_once=1)


def _check_sizes(pixels: torch.Tensor, latent: torch.Tensor) -> None:
    height, width = pixels.shape[2:]
    if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
        raise ValueError(f"images are {width}x{height}, expected multiples of {SIDE_MULTIPLE}")
    expected = (pixels.shape[0], 4, height // LATENT_SCALE, width // LATENT_SCALE)
    if tuple(latent.shape) != expected:
        raise ValueError(f"samples have shape {tuple(latent.shape)}, expected {expected} for these images")
