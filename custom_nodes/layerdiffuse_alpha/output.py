# SPDX-License-Identifier: GPL-3.0-or-later
"""The node that sends the finished picture."""

import json
import struct
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from comfy.cli_args import args
from server import PromptServer

from . import png

# A websocket message of a picture: event 1 (the server adds it), format 2 = PNG, the bytes
# (ComfyUI 0.30 server.py send_image, protocol.py).
IMAGE_EVENT = 1
PNG_FORMAT = struct.pack(">I", 2)


class SaveAlphaImageWebsocket:
    """Sends each RGBA picture as a PNG over the websocket and reports its alpha.

    The `executed` message and the history carry, one entry per picture:
    `{"alpha": [{…, "width", "height", "size_bytes"}]}` with the fields of `png.AlphaStatistics`.
    """

    RETURN_TYPES = ()
    FUNCTION = "send"
    OUTPUT_NODE = True
    CATEGORY = "layer_diffuse"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"images": ("IMAGE",)},
            "optional": {
                "metadata": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Write the graph into the PNG, so that the GUI can restore it."},
                ),
                "zero_hidden_colour": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Make the colour of fully transparent pixels black."},
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Makes the node run every time, because a cached result would send no picture."""
        return time.monotonic()

    def send(
        self,
        images: torch.Tensor,
        metadata: bool = False,
        zero_hidden_colour: bool = False,
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Raises ValueError if a picture has no alpha channel or values that are not finite."""
        if images.shape[-1] != 4:
            raise ValueError(f"images have {images.shape[-1]} channels, expected 4 (red, green, blue, alpha)")
        server = PromptServer.instance
        text = _graph_as_text(prompt, extra_pnginfo) if metadata and not args.disable_metadata else {}
        reports = []
        for rgba, statistics in zip(images, png.alpha_statistics(images), strict=True):
            message = b"".join((PNG_FORMAT, *png.parts(rgba, text, zero_hidden_colour)))
            server.send_sync(IMAGE_EVENT, message, server.client_id)
            height, width = rgba.shape[:2]
            sizes = {"width": width, "height": height, "size_bytes": len(message) - len(PNG_FORMAT)}
            reports.append(asdict(statistics) | sizes)
        return {"ui": {"alpha": reports}}


def _graph_as_text(prompt: Mapping[str, Any] | None, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns keyword -> JSON, the chunks from which the GUI restores a graph (ComfyUI 0.30 nodes.py SaveImage)."""
    values = ({} if prompt is None else {"prompt": prompt}) | dict(extra_pnginfo or {})
    return {keyword: json.dumps(value) for keyword, value in values.items()}
