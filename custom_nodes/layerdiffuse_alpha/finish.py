# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done with a finished picture before it is encoded: crop, trim, padding, background; and WebP."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from . import png

# Pictures have a haze of alpha 1 to 12 of 255 around the object, up to 68 % of the pixels; the object has more.
HAZE_BELOW = 0.05
TRANSPARENT = "transparent"
COLOUR = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
# Lossless: 21 to 65 % fewer bytes than our PNG for 80 ms more at 1024x1024; higher ones gain little
# (benchmarks/README.md).
WEBP_METHOD, WEBP_EFFORT = 1, 20
EXIF_MODEL = 0x0110  # the tag of the graph, and the one before it of the layout (ComfyUI 0.30 SaveAnimatedWEBP)


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels from its top left corner."""

    left: int
    top: int
    width: int
    height: int


def middle_box(rgba: torch.Tensor, crop_width: int, crop_height: int) -> Box:
    """Returns the box of this size in pixels in the middle of the picture; 0, or more than there is, is all of it.

    Args:
        rgba: (H, W, 4).
    """
    height, width = rgba.shape[:2]
    kept_width, kept_height = min(crop_width or width, width), min(crop_height or height, height)
    return Box((width - kept_width) // 2, (height - kept_height) // 2, kept_width, kept_height)


def object_box(rgba: torch.Tensor, inside: Box) -> Box:
    """Returns the smallest box with every pixel of `inside` whose alpha is at least 0.05; `inside` if there is none.

    Args:
        rgba: (H, W, 4) in [0, 1].
    """
    visible = cropped(rgba, inside, 0)[..., 3] >= HAZE_BELOW
    rows, columns = visible.any(1).nonzero().flatten().tolist(), visible.any(0).nonzero().flatten().tolist()
    if not rows:
        return inside
    left, top = inside.left + columns[0], inside.top + rows[0]
    return Box(left, top, columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)


def cropped(rgba: torch.Tensor, box: Box, padding: int) -> torch.Tensor:
    """Returns the part of the picture in `box`, with `padding` transparent black pixels on each side."""
    part = rgba[box.top : box.top + box.height, box.left : box.left + box.width]
    return torch.nn.functional.pad(part, (0, 0, padding, padding, padding, padding))


def flattened(rgba: torch.Tensor, background: str) -> torch.Tensor:
    """Returns the picture over a colour, opaque; unchanged if `background` is "transparent".

    Args:
        rgba: (H, W, 4) in [0, 1], straight alpha.
        background: "transparent" or a colour as #rrggbb.

    Raises:
        ValueError: it is neither.
    """
    if background == TRANSPARENT:
        return rgba
    found = COLOUR.fullmatch(background)
    if found is None:
        raise ValueError(f'background is "{background}", expected "transparent" or a colour as #rrggbb')
    colour = torch.tensor([int(part, 16) / 255 for part in found.groups()], dtype=rgba.dtype, device=rgba.device)
    clipped = rgba.clamp(0, 1)
    over = colour + (clipped[..., :3] - colour) * clipped[..., 3:]
    return torch.cat((over, torch.ones_like(over[..., :1])), dim=-1)


def webp(rgba: torch.Tensor, text: Mapping[str, str], zero_hidden_colour: bool = False) -> bytes:
    """Returns one picture, (H, W, 4) in [0, 1], as lossless WebP; hidden colour is kept unless it is to be black.

    Args:
        text: keyword -> ASCII text, written as EXIF tags "keyword:text", which is what the GUI reads.
    """
    buffer = BytesIO()
    pixels = Image.fromarray(png.quantise(rgba, zero_hidden_colour))
    options: dict[str, Any] = {"lossless": True, "exact": True, "method": WEBP_METHOD, "quality": WEBP_EFFORT}
    if text:
        exif = Image.Exif()
        for number, (keyword, value) in enumerate(text.items()):
            exif[EXIF_MODEL - number] = f"{keyword}:{value}"
        options["exif"] = exif
    pixels.save(buffer, "WEBP", **options)
    return buffer.getvalue()
