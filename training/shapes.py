"""Signed distance fields of plain shapes: float32 arrays, negative inside, in units of the sprite.

After Inigo Quilez's "2D distance functions" (iquilezles.org); x grows to the right, y downwards.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Point = tuple[float, float]


def circle(x: Field, y: Field, centre: Point, radius: float) -> Field:
    return np.hypot(x - centre[0], y - centre[1]) - radius


def ellipse(x: Field, y: Field, centre: Point, radii: Point) -> Field:
    """First-order distance: exact on the outline, the only place that matters."""
    u, v = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
    k = np.hypot(u, v)
    gradient = np.hypot(u / radii[0], v / radii[1])
    return k * (k - 1) / np.maximum(gradient, 1e-6)


def box(x: Field, y: Field, centre: Point, half: Point, rounding: float = 0.0) -> Field:
    dx = np.abs(x - centre[0]) - half[0] + rounding
    dy = np.abs(y - centre[1]) - half[1] + rounding
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - rounding


def segment(x: Field, y: Field, start: Point, end: Point, radius: float) -> Field:
    """A line from start to end with round ends; its width is twice the radius."""
    px, py = x - start[0], y - start[1]
    ex, ey = end[0] - start[0], end[1] - start[1]
    along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    return np.hypot(px - ex * along, py - ey * along) - radius


def polygon(x: Field, y: Field, points: Sequence[Point]) -> Field:
    distance = np.full_like(x, np.inf)
    sign = np.ones_like(x)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, (px - ex * along) ** 2 + (py - ey * along) ** 2)
        above, below, left = y >= ay, y < by, ex * py > ey * px
        crosses = (above & below & left) | (~above & ~below & ~left)
        sign = np.where(crosses, -sign, sign)
    return sign * np.sqrt(distance)


def star(x: Field, y: Field, tips: int, outer: float, inner: float) -> Field:
    turn = np.pi / tips
    corners = [(float(np.sin(i * turn)) * r, -float(np.cos(i * turn)) * r) for i, r in enumerate((outer, inner) * tips)]
    return polygon(x, y, corners)


def union(*fields: Field) -> Field:
    return np.minimum.reduce(fields)


def intersection(*fields: Field) -> Field:
    return np.maximum.reduce(fields)


def without(field: Field, hole: Field) -> Field:
    return np.maximum(field, -hole)


def blend(a: Field, b: Field, width: float) -> Field:
    """A union whose seam is rounded over `width`."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + (a - b) * h - width * h * (1 - h)
