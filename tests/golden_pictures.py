"""The golden pictures: stored requests, the expected pictures, and when another picture counts as the same.

Pictures are compared as decoded pixels: alpha on its own, and colour multiplied by alpha, because colour
that cannot be seen does not count.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

FOLDER = Path(__file__).parent / "golden"
STORED_PROFILE = "tiny"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tolerance:
    """How much two pictures of one request may differ, in steps of 1/255.

    Attributes:
        mean: maximum mean of the absolute differences.
        far: a sample that differs by more than this is far apart.
        far_share: maximum share of samples that are far apart.
    """

    mean: float
    far: int
    far_share: float


@dataclass(frozen=True)
class Difference:
    """Of alpha, or of premultiplied colour, in steps of 1/255."""

    mean: float
    largest: int
    far_share: float

    def is_within(self, tolerance: Tolerance) -> bool:
        """Returns whether pictures with this difference count as the same."""
        return self.mean <= tolerance.mean and self.far_share <= tolerance.far_share


# Measured (docs/golden.md): the same machine draws the same bytes; two threads instead of one, or AVX2
# instead of AVX-512, change no sample by more than 1. A patch at 95 % of its strength exceeds it.
TOLERANCE = Tolerance(mean=0.5, far=8, far_share=0.005)


@dataclass(frozen=True)
class Case:
    """A stored request.

    Attributes:
        name: its folder's name.
        request: a job's input, in the tiny model's sizes.
    """

    name: str
    request: dict[str, Any]

    def expected(self, profile: str) -> Path:
        """Returns the path of a profile's picture, whether or not it exists."""
        name = "expected.png" if profile == STORED_PROFILE else f"expected.{profile}.png"
        return FOLDER / self.name / name

    def sized_for(self, scale: int) -> dict[str, Any]:
        """Returns the request for a model whose pictures have `scale` times the side."""
        return {name: value * scale if name in {"width", "height"} else value for name, value in self.request.items()}


def cases() -> list[Case]:
    """Returns all stored requests."""
    files = sorted(FOLDER.glob("*/request.json"))
    return [Case(file.parent.name, json.loads(file.read_text("utf-8"))) for file in files]


def pixels(png: bytes) -> Pixels:
    """Returns RGBA, uint8 [height, width, 4].

    Raises:
        ValueError: it is not an RGBA PNG.
    """
    with Image.open(io.BytesIO(png)) as picture:
        if picture.mode != "RGBA":
            raise ValueError(f"picture is {picture.mode}, expected RGBA")
        return np.asarray(picture)


def differences(expected: Pixels, got: Pixels) -> dict[str, Difference]:
    """Returns the differences of alpha and of premultiplied colour.

    Raises:
        ValueError: the pictures have different sizes.
    """
    if expected.shape != got.shape:
        raise ValueError(f"picture is {got.shape[1]}x{got.shape[0]}, expected {expected.shape[1]}x{expected.shape[0]}")
    return {
        "alpha": _difference(expected[..., 3], got[..., 3]),
        "colour": _difference(premultiplied(expected), premultiplied(got)),
    }


def are_same(expected: Pixels, got: Pixels, tolerance: Tolerance = TOLERANCE) -> bool:
    """Returns whether two pictures of the same size count as the same."""
    return all(difference.is_within(tolerance) for difference in differences(expected, got).values())


def premultiplied(rgba: Pixels) -> npt.NDArray[np.float64]:
    """Returns colour as it shows over black, [height, width, 3] in 0 to 255."""
    return rgba[..., :3] * (rgba[..., 3:] / 255)


def _difference(expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> Difference:
    apart = np.abs(expected.astype(np.float64) - got)
    return Difference(
        mean=round(float(apart.mean()), 4),
        largest=round(float(apart.max())),
        far_share=round(float((apart > TOLERANCE.far).mean()), 6),
    )
