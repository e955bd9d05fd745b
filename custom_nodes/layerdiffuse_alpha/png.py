# SPDX-License-Identifier: GPL-3.0-or-later
"""RGBA picture -> PNG bytes and alpha statistics.

PNG: W3C Portable Network Graphics, third edition. Every row has the filter "Average": of the filters
that NumPy computes in about a millisecond, it needs the fewest bytes on natural pictures
(benchmarks/png.py compares them). ISA-L compresses. If `isal` is not installed, Pillow encodes.
"""

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

try:
    from isal import isal_zlib
except ImportError:  # optional: without it, encoding is slower
    isal_zlib = None

TRANSPARENT_BELOW = 0.02
HALF = 0.5
OPAQUE_ABOVE = 0.98
BORDER_BELOW = 0.05

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BYTES_PER_PIXEL = 4
BIT_DEPTH = 8
RGBA_COLOUR_TYPE = 6
AVERAGE = 3
ISAL_LEVEL = 1  # levels 2 and 3 are slower and hardly smaller on filtered rows


@dataclass(frozen=True)
class AlphaStatistics:
    """Statistics of a picture's alpha, each in [0, 1].

    Attributes:
        transparent: share of pixels with alpha under 0.02.
        under_half: share of pixels with alpha under 0.5.
        opaque: share of pixels with alpha over 0.98.
        border_transparent: share of the border with alpha under 0.05. The border is the first and last row
            and column, each pixel counted once.
        mean: mean alpha.
        minimum: smallest alpha.
        maximum: largest alpha.
    """

    transparent: float
    under_half: float
    opaque: float
    border_transparent: float
    mean: float
    minimum: float
    maximum: float


def alpha_statistics(images: torch.Tensor) -> list[AlphaStatistics]:
    """Returns the statistics of each picture's alpha, clipped to [0, 1] and otherwise not rounded.

    Computed on the device of `images`, with a single wait for it.

    Args:
        images: (B, H, W, 4) in [0, 1].

    Raises:
        ValueError: a value is NaN or infinite.
    """
    alpha = images[..., 3].float().clamp(0, 1).flatten(1)
    border = torch.ones(images.shape[1:3], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    at_border = alpha[:, border.flatten().nonzero().squeeze(1).to(alpha.device)]
    columns = [
        (alpha < TRANSPARENT_BELOW).float().mean(1),
        (alpha < HALF).float().mean(1),
        (alpha > OPAQUE_ABOVE).float().mean(1),
        (at_border < BORDER_BELOW).float().mean(1),
        alpha.mean(1),
        *alpha.aminmax(dim=1),
    ]
    extremes = torch.stack(images.aminmax()).float()  # both are NaN if any value is
    least, greatest, *values = torch.cat((extremes, torch.stack(columns, dim=1).flatten())).tolist()
    if not (math.isfinite(least) and math.isfinite(greatest)):
        raise ValueError("images contain NaN or infinite values")
    size = len(columns)
    return [AlphaStatistics(*values[start : start + size]) for start in range(0, len(values), size)]


def encode(rgba: torch.Tensor, text: Mapping[str, str] | None = None, zero_hidden_colour: bool = False) -> bytes:
    """Returns one picture, (H, W, 4) in [0, 1], as an 8-bit RGBA PNG; for the arguments see `parts`."""
    return b"".join(parts(rgba, text, zero_hidden_colour))


def parts(rgba: torch.Tensor, text: Mapping[str, str] | None = None, zero_hidden_colour: bool = False) -> list[bytes]:
    """Returns the bytes of a PNG in parts, so that the sender copies them only once.

    Args:
        rgba: (H, W, 4) in [0, 1], straight alpha, on any device; values are rounded to 1/255.
        text: keyword -> text, stored as Pillow and so ComfyUI's SaveImage stores it.
        zero_hidden_colour: makes the colour of pixels whose rounded alpha is zero black.
    """
    pixels = quantise(rgba, zero_hidden_colour)
    info = PngInfo()
    for keyword, value in (text or {}).items():
        info.add_text(keyword, value)
    return _by_pillow(pixels, info) if isal_zlib is None else _by_isal(pixels, info)


def quantise(rgba: torch.Tensor, zero_hidden_colour: bool = False) -> np.ndarray:
    """Returns (H, W, 4) uint8, contiguous; computed on the device of `rgba`, then copied once."""
    packed = rgba.float().mul(255.0).round_().clamp_(0, 255).to(torch.uint8).contiguous()
    if zero_hidden_colour:
        packed.mul_(packed[..., 3:] > 0)
    return packed.cpu().numpy()


def filtered(pixels: np.ndarray) -> np.ndarray:
    """Returns (H, 1 + 4 W) uint8: each row's filter type, then its bytes less the mean of left and above.

    Args:
        pixels: (H, W, 4) uint8.
    """
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, width * BYTES_PER_PIXEL)
    above, predicted = np.zeros_like(rows), np.zeros_like(rows)
    above[1:] = rows[:-1]
    predicted[:, BYTES_PER_PIXEL:] = rows[:, :-BYTES_PER_PIXEL]
    # floor((a + b) / 2) without a ninth bit
    common = predicted & above
    predicted ^= above
    predicted >>= 1
    predicted += common
    result = np.empty((height, 1 + rows.shape[1]), np.uint8)
    result[:, 0] = AVERAGE
    np.subtract(rows, predicted, out=result[:, 1:])
    return result


def _by_isal(pixels: np.ndarray, info: PngInfo) -> list[bytes]:
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, BIT_DEPTH, RGBA_COLOUR_TYPE, 0, 0, 0)
    stream = isal_zlib.compress(filtered(pixels), ISAL_LEVEL)
    texts = [(kind, body) for kind, body, *_ in info.chunks]
    found = [SIGNATURE]
    for kind, body in ((b"IHDR", header), *texts, (b"IDAT", stream), (b"IEND", b"")):
        checksum = isal_zlib.crc32(body, zlib.crc32(kind))
        found += (struct.pack(">I4s", len(body), kind), body, struct.pack(">I", checksum))
    return found


def _by_pillow(pixels: np.ndarray, info: PngInfo) -> list[bytes]:
    # Run lengths only: about the bytes of level 4 in less than half its time.
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=info)
    return [buffer.getvalue()]
