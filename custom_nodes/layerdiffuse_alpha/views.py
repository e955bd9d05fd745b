# SPDX-License-Identifier: GPL-3.0-or-later
"""The vote over views that LayerDiffuse decodes with (arXiv 2402.17113, section 3.1).

A picture is decoded in several orientations, each result is clipped and turned back, and each value
becomes the lower median over the views: the 4th smallest of eight (what `torch.median` gives; the
reference, huchenlei/ComfyUI-layerdiffuse 1.0.4, decodes the eight one after another and calls it).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

Decode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Orientation:
    """An optional mirroring left to right, then a number of quarter turns."""

    mirrored: bool
    quarter_turns: int

    def turn(self, picture: torch.Tensor) -> torch.Tensor:
        """Returns (B, C, H, W) in this orientation; an odd number of turns swaps H and W."""
        return torch.rot90(picture.flip(3) if self.mirrored else picture, self.quarter_turns, (2, 3))

    def turn_back(self, picture: torch.Tensor) -> torch.Tensor:
        """Undoes `turn`."""
        straight = torch.rot90(picture, -self.quarter_turns, (2, 3))
        return straight.flip(3) if self.mirrored else straight


# Four: those that keep height and width in place. One: the picture as it is.
ORIENTATIONS = {
    8: tuple(Orientation(mirrored, turns) for mirrored in (False, True) for turns in range(4)),
    4: tuple(Orientation(mirrored, turns) for mirrored in (False, True) for turns in (0, 2)),
    1: (Orientation(mirrored=False, quarter_turns=0),),
}


def decode(decoder: Decode, pixels: torch.Tensor, latent: torch.Tensor, passes: int, at_once: int) -> torch.Tensor:
    """Returns (B, 4, H, W) in [0, 1]: alpha, then straight RGB.

    Args:
        decoder: the transparent decoder.
        pixels: (B, 3, H, W) in [0, 1]; H and W multiples of 64.
        latent: (B, 4, H/8, W/8).
        passes: number of views, 8, 4 or 1.
        at_once: maximum number of views per batch; the result is the same except for rounding.
    """
    square = pixels.shape[2] == pixels.shape[3]
    views = []
    for group in _batches(ORIENTATIONS[passes], square, at_once):
        batch = [torch.cat([orientation.turn(picture) for orientation in group]) for picture in (pixels, latent)]
        decoded = decoder(*batch).clamp_(0, 1).split(len(pixels))
        views += [orientation.turn_back(view) for orientation, view in zip(group, decoded, strict=True)]
    return lower_median(views)


def lower_median(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the elementwise lower median of eight, four or one tensors of one shape.

    It compares whole tensors, because `torch.median` over a strided dimension is 7 to 20 times as slow on a
    CPU.
    """
    if len(views) == 1:
        return views[0]
    low = _sorted_four(views[:4])
    if len(views) == 4:
        return low[1]
    high = _sorted_four(views[4:])
    # k-th smallest of two sorted rows: the minimum over all i of max(low[i], high[k - i]), k = 4.
    candidates = [torch.maximum(low[i], high[2 - i]) for i in range(3)]
    smallest = torch.minimum(low[3], high[3])
    for candidate in candidates:
        torch.minimum(smallest, candidate, out=smallest)
    return smallest


def _batches(orientations: Sequence[Orientation], square: bool, at_once: int) -> Iterator[Sequence[Orientation]]:
    """Yields groups of at most `at_once` orientations whose pictures have one shape."""
    upright = [orientation for orientation in orientations if square or orientation.quarter_turns % 2 == 0]
    lying = [orientation for orientation in orientations if orientation not in upright]
    for alike in (upright, lying):
        for start in range(0, len(alike), at_once):
            yield alike[start : start + at_once]


def _sorted_four(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    a, b, c, d = tensors
    a, b = torch.minimum(a, b), torch.maximum(a, b)
    c, d = torch.minimum(c, d), torch.maximum(c, d)
    a, c = torch.minimum(a, c), torch.maximum(a, c)
    b, d = torch.minimum(b, d), torch.maximum(b, d)
    return [a, torch.minimum(b, c), torch.maximum(b, c), d]
