"""What the output node reports of a picture: is it transparent, and which part was kept? No pixels are decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from handler.errors import BadPicture

# A picture passes if alpha is under 0.5 in this share of its pixels, the outermost ones not counted, or if it is
# translucent as a whole: smoke, glass. Chosen by measuring both errors, see benchmarks/README.md (alpha_check.py).
TRANSPARENT_SHARE = 0.005
TRANSLUCENT_MEAN = 0.8
# An object may be tiny, but something must be visible.
VISIBLE_ALPHA = 0.1
EMPTY_SHARE = 0.9999


@dataclass(frozen=True)
class Alpha:
    """What the output node reports of a picture's alpha, each in [0, 1].

    Attributes:
        transparent: share of pixels with alpha under 0.02.
        under_half: share of pixels with alpha under 0.5.
        opaque: share of pixels with alpha over 0.98.
        border_transparent: share of the outermost rows' and columns' pixels with alpha under 0.05.
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


def alpha_of(output: Mapping[str, Any]) -> Alpha:
    """Returns the alpha statistics that the output node reported.

    Args:
        output: `{"alpha": [{…}]}` with at least the fields of Alpha, from the node's `executed` message.

    Raises:
        BadPicture: the report is missing or malformed.
    """
    match output:
        case {"alpha": [dict(report)]} if all(_is_share(report.get(field.name)) for field in fields(Alpha)):
            return Alpha(**{field.name: report[field.name] for field in fields(Alpha)})
    raise BadPicture("the output node did not report the picture's alpha")


def kept(output: Mapping[str, Any]) -> tuple[tuple[int, int] | None, Mapping[str, int] | None]:
    """Returns the size of the picture that was sent, and the box that it shows; None if it was not trimmed or padded.

    Args:
        output: as for `alpha_of`.
    """
    match output:
        case {"alpha": [{"box": dict(box), "width": int(width), "height": int(height)}]}:
            return (width, height), box
    return None, None


def fault(alpha: Alpha, width: int, height: int) -> str | None:
    """Returns why a picture is not a transparent one, or None if it is.

    Args:
        width, height: of the picture, in pixels.
    """
    # An opaque picture with a transparent rim of a pixel is still an opaque picture.
    rim = alpha.border_transparent * (1 - max(0, width - 2) * max(0, height - 2) / (width * height))
    under_half = max(0.0, alpha.under_half - rim)
    if under_half < TRANSPARENT_SHARE and alpha.mean > TRANSLUCENT_MEAN:
        return f"picture is opaque: alpha is under 0.5 in {under_half:.2%} of its pixels, its mean is {alpha.mean:.2f}"
    if alpha.transparent > EMPTY_SHARE or alpha.maximum < VISIBLE_ALPHA:
        return f"picture is empty: {alpha.transparent:.2%} of its pixels have alpha under 0.02"
    return None


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and 0 <= value <= 1
