"""What the output node says about a picture's alpha is what a plain count says."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerdiffuse_alpha import png


def counted(alpha: np.ndarray) -> dict[str, float]:
    """Returns the statistics of one (H, W) alpha, pixel by pixel."""
    height, width = alpha.shape
    flat = [float(value) for value in alpha.clip(0, 1).flat]
    border = [
        float(alpha[y, x]) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)
    ]
    return {
        "transparent": sum(value < 0.02 for value in flat) / len(flat),
        "under_half": sum(value < 0.5 for value in flat) / len(flat),
        "opaque": sum(value > 0.98 for value in flat) / len(flat),
        "border_transparent": sum(value < 0.05 for value in border) / len(border),
        "mean": sum(flat) / len(flat),
        "minimum": min(flat),
        "maximum": max(flat),
    }


@given(
    frames=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_statistics_equal_a_plain_count(frames, height, width, dtype, seed):
    """Each picture of a batch has its own statistics, in any dtype, also with values beyond [0, 1]."""
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(frames, height, width, 4, generator=random)
    # Values around the thresholds are as frequent as any others.
    special = torch.tensor([-0.5, 0, 0.01, 0.03, 0.06, 0.4, 0.6, 0.97, 0.99, 1, 1.5])
    chosen = special[torch.randint(len(special), (frames, height, width), generator=random)]
    images[..., 3] = torch.where(images[..., 0] < 0.5, chosen, images[..., 3])
    images = images.to(dtype)
    found = png.alpha_statistics(images)
    expected = [counted(rgba[..., 3].float().numpy()) for rgba in images]
    assert [asdict(statistics) for statistics in found] == [pytest.approx(one, abs=1e-6) for one in expected]


@pytest.mark.parametrize(
    ("inside", "border", "expected"),
    [
        (1.0, 0.0, {"border_transparent": 1.0, "under_half": 252 / 4096, "minimum": 0.0, "maximum": 1.0}),
        (0.0, 1.0, {"border_transparent": 0.0, "under_half": 3844 / 4096, "minimum": 0.0, "maximum": 1.0}),
        (0.95, 0.95, {"border_transparent": 0.0, "under_half": 0.0, "minimum": 0.95, "maximum": 0.95}),
        (0.04, 0.04, {"border_transparent": 1.0, "under_half": 1.0, "minimum": 0.04, "maximum": 0.04}),
    ],
)
def test_a_frame_and_a_veil_differ(inside, border, expected):
    """The border is one pixel wide, and its corners count once: 252 of 64 x 64 pixels."""
    images = torch.full((1, 64, 64, 4), border)
    images[:, 1:-1, 1:-1, 3] = inside
    (found,) = map(asdict, png.alpha_statistics(images))
    assert {name: found[name] for name in expected} == pytest.approx(expected)
