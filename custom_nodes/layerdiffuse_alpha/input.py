# SPDX-License-Identifier: GPL-3.0-or-later
"""The node that reads a picture that came with a request."""

import base64
import binascii
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
LATENT_SCALE = 8  # pixels to a side of one latent pixel


class LoadEncodedImage:
    """Decodes a picture from base64 text, so that no file is written, and scales it to the size of a latent.

    The picture covers the size: it keeps its proportions, and what is left over on two sides is cut off. Its own alpha
    is ignored.
    """

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "load"
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("STRING", {"multiline": True, "tooltip": "PNG, JPEG or WebP as base64, or a data URL."}),
                "size": ("LATENT", {"tooltip": "The picture is scaled to the size of this latent."}),
            }
        }

    def load(self, image: str, size: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
        """Returns the picture, (1, H, W, 3) in [0, 1]; raises ValueError if there is none."""
        height, width = (LATENT_SCALE * side for side in size["samples"].shape[-2:])
        try:
            encoded = base64.b64decode(image.rpartition("base64,")[2], validate=True)
            with Image.open(BytesIO(encoded), formats=FORMATS) as picture:
                upright = ImageOps.exif_transpose(picture).convert("RGB")
        except (binascii.Error, OSError) as exc:
            raise ValueError("image is not a picture in base64") from exc
        pixels = np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS), dtype=np.float32)
        return (torch.from_numpy(pixels / 255)[None],)
