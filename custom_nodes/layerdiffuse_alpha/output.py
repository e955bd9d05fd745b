# SPDX-License-Identifier: GPL-3.0-or-later
"""The node that sends the finished picture."""

import struct
import time
from dataclasses import asdict
from typing import Any

import torch
from server import PromptServer

from . import png

# A websocket message of a picture: event 1 (the server adds it), format 2 = PNG, the bytes
# (ComfyUI 0.30 server.py send_image, protocol.py).
IMAGE_EVENT = 1
PNG_FORMAT = struct.pack(">I", 2)


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
