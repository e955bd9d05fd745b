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

from . import finish, png, preview

# A websocket message of a picture: event 1 (the server adds it), format 2 = PNG, the bytes
# (ComfyUI 0.30 server.py send_image, protocol.py). ComfyUI itself sends no WebP; 3 is ours.
IMAGE_EVENT = 1
PNG_FORMAT, WEBP_FORMAT = struct.pack(">I", 2), struct.pack(">I", 3)
PNG, WEBP = "png", "webp"
MAX_PADDING = 512
MAX_CROP = 16384  # the GUI needs a limit; this is ComfyUI's for pictures
CROP_TOOLTIP = "Crop to the middle, before trim; 0 keeps all."


class SaveAlphaImageWebsocket:
    """Sends each RGBA picture as a PNG or WebP over the websocket and reports its alpha.

    The `executed` message and the history carry, one entry per picture:
    `{"alpha": [{…, "width", "height", "size_bytes"}]}` with the fields of `png.AlphaStatistics`, which are those of
    the whole picture, before it is cropped or flattened. If it is cropped or padded, an entry also has the `box` that
    was kept, `{"left", "top", "width", "height"}` in pixels of the whole picture; `padding` is not part of it.
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
                    {"default": False, "tooltip": "Write the graph into the picture, so that the GUI can restore it."},
                ),
                "zero_hidden_colour": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Make the colour of fully transparent pixels black."},
                ),
                "format": ([PNG, WEBP], {"default": PNG, "tooltip": "Both are lossless."}),
                "trim": ("BOOLEAN", {"default": False, "tooltip": "Crop to the object; haze is ignored."}),
                "padding": (
                    "INT",
                    {"default": 0, "min": 0, "max": MAX_PADDING, "tooltip": "Pixels added on each side, after trim."},
                ),
                "background": (
                    "STRING",
                    {"default": finish.TRANSPARENT, "tooltip": "transparent, or a colour as #rrggbb to draw it over."},
                ),
                "crop_width": ("INT", {"default": 0, "min": 0, "max": MAX_CROP, "tooltip": CROP_TOOLTIP}),
                "crop_height": ("INT", {"default": 0, "min": 0, "max": MAX_CROP, "tooltip": CROP_TOOLTIP}),
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
        format: str = PNG,  # noqa: A002 -- the name of the input
        trim: bool = False,
        padding: int = 0,
        background: str = finish.TRANSPARENT,
        crop_width: int = 0,
        crop_height: int = 0,
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Raises ValueError for a picture without alpha or with values that are not finite, or a wrong background."""
        if images.shape[-1] != 4:
            raise ValueError(f"images have {images.shape[-1]} channels, expected 4 (red, green, blue, alpha)")
        server = PromptServer.instance
        text = _graph_as_text(prompt, extra_pnginfo) if metadata and not args.disable_metadata else {}
        reports: list[dict[str, Any]] = []
        shown: list[dict[str, str]] = []
        for rgba, statistics in zip(images, png.alpha_statistics(images), strict=True):
            box = finish.middle_box(rgba, crop_width, crop_height)
            if trim:
                box = finish.object_box(rgba, box)
            finished = finish.flattened(finish.cropped(rgba, box, padding), background)
            if format == WEBP:
                parts = [WEBP_FORMAT, finish.webp(finished, text, zero_hidden_colour)]
            else:
                parts = [PNG_FORMAT, *png.parts(finished, text, zero_hidden_colour)]
            message = b"".join(parts)
            server.send_sync(IMAGE_EVENT, message, server.client_id)
            shown += preview.save(server, message[len(PNG_FORMAT) :], format)
            height, width = finished.shape[:2]
            sizes = {"width": width, "height": height, "size_bytes": len(message) - len(PNG_FORMAT)}
            kept = {"box": asdict(box)} if trim or padding or crop_width or crop_height else {}
            reports.append(asdict(statistics) | sizes | kept)
        return {"ui": {"alpha": reports} | ({"images": shown} if shown else {})}


def _graph_as_text(prompt: Mapping[str, Any] | None, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns keyword -> JSON, the texts from which the GUI restores a graph (ComfyUI 0.30 nodes.py SaveImage)."""
    values = ({} if prompt is None else {"prompt": prompt}) | dict(extra_pnginfo or {})
    return {keyword: json.dumps(value) for keyword, value in values.items()}
