"""The golden pictures: stored requests, the pictures that they gave, and when another picture counts as the same.

Pictures are compared as decoded pixels: alpha by itself, and colour multiplied with alpha, since colour
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
    """How far two pictures of one request may be apart, in steps of 1/255.

    Attributes:
        mean: of the absolute differences.
        far: a sample that differs by more is far off.
        far_share: share of samples that may be far off.
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
        """Returns whether pictures so far apart count as the same."""
        return self.mean <= tolerance.mean and self.far_share <= tolerance.far_share


# Measured (docs/golden.md): the same machine gives the same bytes; two threads in place of one, or AVX2
# in place of AVX-512, move no sample by more than 1. A patch at 95 % of its strength is beyond it.
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
        """Returns where the picture of a profile is, or would be."""
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
        ValueError: it is another kind of picture.
    """
    with Image.open(io.BytesIO(png)) as picture:
        if picture.mode != "RGBA":
            raise ValueError(f"picture is {picture.mode}, expected RGBA")
        return np.asarray(picture)


def differences(expected: Pixels, got: Pixels) -> dict[str, Difference]:
    """Returns how far alpha and premultiplied colour are apart.

    Raises:
        ValueError: the pictures are of different sizes.
    """
    if expected.shape != got.shape:
        raise ValueError(f"picture is {got.shape[1]}x{got.shape[0]}, expected {expected.shape[1]}x{expected.shape[0]}")
    return {
        "alpha": _difference(expected[..., 3], got[..., 3]),
        "colour": _difference(premultiplied(expected), premultiplied(got)),
    }


def are_same(expected: Pixels, got: Pixels, tolerance: Tolerance = TOLERANCE) -> bool:
    """Returns whether two pictures of one size count as the same."""
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
