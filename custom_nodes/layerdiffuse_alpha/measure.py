# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a patch is in what a module returned: a least squares fit, without ComfyUI.

For an input x, base weight W and difference D a patched module returns x W^T + s x D^T + bias + noise, or
the same with a convolution. s, the share, is 1 if the patch is applied and 0 if it is not. The noise is
what rounding in the run's dtype, quantised weights and other adapters add; it does not correlate with the
patch, so its size says how exactly s is known, whatever the dtype.
"""

import math
from dataclasses import dataclass

import torch

ROWS = 256  # maximum number of rows of an input that are used
ROOM = 0.05  # that the share may differ from 1 even if there is no noise
CERTAINTY = 4.0  # standard errors
LARGEST_TOLERANCE = 0.5  # beyond it, applied and not applied cannot be told apart
LARGEST_NOISE = 0.5  # of the output; quantised weights and other adapters stay below it


@dataclass(frozen=True)
class Measurement:
    """The measurement of one module's output.

    Attributes:
        share: share of the patch that was applied: 0 none, 1 all of it.
        tolerance: how far `share` may be from 1 with the patch applied; infinite or NaN if nothing is known.
        noise: size of what neither the base weight nor the patch explains, relative to the output.
    """

    share: float
    tolerance: float
    noise: float

    @property
    def conclusive(self) -> bool:
        """Whether it can distinguish a patched module from one that returns something else."""
        known = self.tolerance < LARGEST_TOLERANCE or self.noise > LARGEST_NOISE
        return math.isfinite(self.share) and known

    @property
    def applied(self) -> bool:
        """Whether the module returned what it should; only meaningful if conclusive."""
        return abs(self.share - 1) <= self.tolerance and self.noise <= LARGEST_NOISE


def measure(
    module: torch.nn.Module,
    given: torch.Tensor,
    returned: torch.Tensor,
    base: torch.Tensor,
    difference: torch.Tensor,
    rounded_to: torch.dtype,
) -> Measurement:
    """Returns how much of a patch is in what `module` returned.

    Waits for the device once. All sums are in fp32, on the device of `given`.

    Args:
        module: a linear module, or a convolution, of which stride, padding, dilation and groups count.
        given: its input, (..., in) or (B, in, H, W).
        returned: its output, (..., out) or (B, out, H', W').
        base: its weight without the patch, (out, in) or (out, in, h, w).
        difference: what the patch adds to the weight, of the same shape.
        rounded_to: the dtype to which the sum of both is rounded if it replaces the weight.
    """
    base, difference = (weight.to(given.device, torch.float32) for weight in (base, difference))
    # A difference under half a step of a coarse dtype is lost when it is merged, which is ComfyUI's
    # choice and not a fault. It rounds to fp8 by chance, so that nothing is lost there on the average.
    kept = difference
    if rounded_to in (torch.float16, torch.bfloat16):
        kept = (base + difference).to(rounded_to).float() - base
    if base.ndim == 2:
        rows = given.flatten(0, -2)
        chosen = torch.linspace(0, len(rows) - 1, min(ROWS, len(rows)), device=given.device).long()
        rows = rows[chosen].float()
        outputs = [rows @ weight.T for weight in (base, difference, kept)]
        found = returned.flatten(0, -2)[chosen].float()
    else:
        first = given[:1].float()
        outputs = [_convolved(module, first, weight) for weight in (base, difference, kept)]
        found = _by_channel(returned[:1].float())
    # Without the mean of each column a bias does not count, patched or not.
    found, without, patch, merged = (values - values.mean(0) for values in (found, *outputs))
    rest = found - without
    square = patch.square().sum()
    share = (rest * patch).sum() / square
    noise = (rest - share * patch).norm()
    lost = ((patch - merged) * patch).sum() / square
    # As if all rows, which see the same rounded weight, were one.
    error = noise / (square.sqrt() * math.sqrt(patch.shape[1]))
    values = torch.stack((share, lost.abs() + CERTAINTY * error, noise / found.norm()))
    share_value, uncertainty, noise_value = values.tolist()
    return Measurement(share_value, ROOM + uncertainty, noise_value)


def _convolved(module: torch.nn.Module, pixels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    convolved = torch.nn.functional.conv2d(
        pixels, weight, None, module.stride, module.padding, module.dilation, module.groups
    )
    return _by_channel(convolved)


def _by_channel(pixels: torch.Tensor) -> torch.Tensor:
    """Returns (B, C, H, W) as (B H W, C)."""
    return pixels.movedim(1, -1).flatten(0, -2)
