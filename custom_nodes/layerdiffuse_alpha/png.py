# SPDX-License-Identifier: GPL-3.0-or-later
"""RGBA picture -> PNG bytes and what its alpha is like."""

from dataclasses import dataclass
from io import BytesIO

import torch
from PIL import Image

TRANSPARENT_BELOW = 0.02
OPAQUE_ABOVE = 0.98


@dataclass(frozen=True)
class AlphaStatistics:
    """Shares of pixels and the mean of alpha, each in [0, 1]."""

    transparent: float
    opaque: float
    mean: float


def alpha_statistics(rgba: torch.Tensor) -> AlphaStatistics:
    """Returns the statistics of one picture, (H, W, 4) in [0, 1]: alpha under 0.02, over 0.98, mean."""
    alpha = rgba[..., 3].float()
    shares = torch.stack(((alpha < TRANSPARENT_BELOW).float().mean(), (alpha > OPAQUE_ABOVE).float().mean()))
    transparent, opaque = shares.tolist()
    return AlphaStatistics(transparent, opaque, alpha.mean().item())


def encode(rgba: torch.Tensor) -> bytes:
    """Returns one picture, (H, W, 4) in [0, 1], as an 8-bit RGBA PNG without metadata."""
    quantised = rgba.mul(255.0).round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(quantised, "RGBA").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
