"""Sprites with exact straight alpha: 27 kinds in 12 colours, drawn from distance fields.

Colour and alpha are separate fields, never divided out of each other, so that the colour of a
nearly transparent pixel is as exact as that of an opaque one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training import shapes
from training.shapes import Field

COLOURS = {
    "red": (214, 36, 40),
    "orange": (244, 132, 24),
    "yellow": (248, 214, 48),
    "green": (58, 164, 66),
    "teal": (26, 166, 164),
    "blue": (44, 88, 214),
    "purple": (128, 56, 182),
    "pink": (242, 132, 184),
    "brown": (124, 78, 44),
    "black": (34, 34, 40),
    "grey": (138, 138, 144),
    "white": (242, 242, 242),
}
STEM = np.array([0.42, 0.29, 0.17], np.float32)
LEAF = np.array([0.30, 0.58, 0.28], np.float32)
CREAM = np.array([0.96, 0.91, 0.80], np.float32)
DARK = np.array([0.14, 0.13, 0.16], np.float32)
LIGHT = np.array([0.98, 0.98, 0.98], np.float32)

BORDER = 0.09  # width of a sticker's white border

Colour = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sprite:
    """A drawn thing.

    Attributes:
        rgb: colour, float32 [height, width, 3] in [0, 1], straight; meaningless if alpha is 0.
        alpha: float32 [height, width] in [0, 1].
    """

    rgb: npt.NDArray[np.float32]
    alpha: npt.NDArray[np.float32]


class Canvas:
    """Layers of colour, each over the last, in the sprite's own coordinates.

    Attributes:
        x, y: position of each pixel in the sprite, which is within [-1, 1].
        rng: the sprite's source of variation.
    """

    def __init__(self, x: Field, y: Field, pixel: float, light: float, rng: np.random.Generator) -> None:
        self.x = x
        self.y = y
        self.rng = rng
        self._pixel = pixel
        self._light = light
        self._rgb = np.zeros((*x.shape, 3), np.float32)
        self._alpha = np.zeros_like(x)
        self._outline = np.full_like(x, np.inf)

    def vary(self, value: float, share: float = 0.12) -> float:
        """Returns `value`, varied by up to `share` of it."""
        return value * float(self.rng.uniform(1 - share, 1 + share))

    def paint(self, field: Field, colour: Colour, opacity: Field | float = 1.0, depth: float = 0.35) -> None:
        """Draws `colour`, shaded by the distance from the outline, over the earlier layers."""
        self._outline = shapes.union(self._outline, field)
        coverage = self._coverage(field)
        round_off = np.clip(1 + field / depth, 0, 1) ** 2  # 1 at the outline, 0 at `depth` inside
        shade = 1 + self._light * (-0.5 * self.x - 0.8 * self.y) - 0.13 * round_off
        self.cover(coverage * opacity, colour * shade[..., None])

    def cover(self, alpha: Field, rgb: npt.NDArray[np.float32]) -> None:
        """Draws a layer with this straight colour and alpha over the earlier layers."""
        rgb = np.clip(rgb, 0, 1)
        alpha = np.clip(alpha, 0, 1)
        below = self._alpha * (1 - alpha)
        total = alpha + below
        mixed = rgb * alpha[..., None] + self._rgb * below[..., None]
        self._rgb = np.where(total[..., None] > 0, mixed / np.maximum(total, 1e-6)[..., None], self._rgb)
        self._alpha = total

    def shine(self, centre: shapes.Point, radius: float, strength: float = 0.5) -> None:
        """Lightens the colour around a point; alpha does not change."""
        glow = strength * np.exp(-(((self.x - centre[0]) ** 2 + (self.y - centre[1]) ** 2) / radius**2))
        self._rgb = self._rgb + (1 - self._rgb) * glow[..., None]

    def underlay_border(self) -> None:
        """Draws a white border around everything that was painted, under it."""
        rgb, alpha = self._rgb, self._alpha
        self._rgb, self._alpha = np.broadcast_to(LIGHT, rgb.shape), self._coverage(self._outline - BORDER)
        self.cover(alpha, rgb)

    def _coverage(self, field: Field) -> Field:
        """Returns the share of each pixel that is inside the outline."""
        return np.clip(0.5 - field / self._pixel, 0, 1)

    def sprite(self) -> Sprite:
        return Sprite(self._rgb.astype(np.float32), self._alpha.astype(np.float32))


def draw(
    kind: str,
    colour: str,
    width: int,
    height: int,
    rng: np.random.Generator,
    margin: float = 0.0,
    sticker: bool = False,
) -> Sprite:
    """Returns a sprite of a size of up to 116 pixels, somewhere on the canvas.

    Args:
        kind: a key of KINDS.
        colour: a key of COLOURS.
        width, height: of the canvas, in pixels, at least 64.
        rng: varies size, place, tilt, shading and the kind's own proportions.
        margin: free space on every side, as a share of the shorter side, or of 128 pixels if that is longer.
        sticker: draws it with a white border.
    """
    free = margin * min(128, width, height)
    largest = 0.5 * min(116.0, 0.92 * min(width, height)) - free
    scale = float(rng.uniform(0.8, 1.0)) * largest
    room_x, room_y = (side / 2 - scale * 1.05 - free for side in (width, height))
    centre_x = width / 2 + float(np.clip(rng.normal(0, 0.25), -1, 1)) * room_x
    centre_y = height / 2 + float(np.clip(rng.normal(0, 0.25), -1, 1)) * room_y
    tilt = float(np.clip(rng.normal(0, 0.06), -0.15, 0.15))
    stretch = float(rng.uniform(0.92, 1.08))
    v, u = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    u, v = (u - centre_x) / scale, (v - centre_y) / scale
    x = (u * np.cos(tilt) + v * np.sin(tilt)) * stretch
    y = (v * np.cos(tilt) - u * np.sin(tilt)) / stretch
    canvas = Canvas(x, y, 1 / scale, float(rng.uniform(0.04, 0.16)), rng)
    base = np.array(COLOURS[colour], np.float32) / 255 * float(rng.uniform(0.94, 1.05))
    KINDS[kind](canvas, np.clip(base, 0, 1))
    if sticker:
        canvas.underlay_border()
    return canvas.sprite()


def _apple(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    c.paint(shapes.segment(x, y, (0.02, -0.45), (c.vary(0.14), -0.92), 0.06), STEM)
    c.paint(shapes.ellipse(x, y, (0.38, -0.74), (0.28, 0.13)), LEAF)
    r = c.vary(0.55, 0.06)
    lobes = shapes.blend(shapes.circle(x, y, (-0.28, 0.05), r), shapes.circle(x, y, (0.28, 0.05), r), 0.2)
    body = shapes.blend(lobes, shapes.ellipse(x, y, (0, 0.42), (0.55, 0.46)), 0.2)
    c.paint(shapes.without(body, shapes.circle(x, y, (0, -0.72), 0.24)), colour)
    c.shine((-0.38, -0.18), 0.22)


def _star(c: Canvas, colour: Colour) -> None:
    c.paint(shapes.star(c.x, c.y + 0.02, 5, 0.94, c.vary(0.42)) - 0.05, colour)
    c.shine((-0.15, -0.3), 0.3, 0.3)


def _leaf(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    r = c.vary(1.1, 0.06)
    blade = shapes.intersection(shapes.circle(x, y, (-r + 0.46, -0.1), r), shapes.circle(x, y, (r - 0.46, -0.1), r))
    c.paint(shapes.segment(x, y, (0, 0.5), (0.06, 0.97), 0.05), colour * 0.7)
    c.paint(blade, colour)
    vein = shapes.segment(x, y, (0, -0.8), (0, 0.8), 0.025)
    for at in (-0.45, -0.1, 0.25):
        for side in (-1, 1):
            vein = shapes.union(vein, shapes.segment(x, y, (0, at + 0.2), (side * 0.3, at - 0.05), 0.018))
    c.paint(shapes.intersection(vein, blade + 0.04), colour * 0.72)


def _heart(c: Canvas, colour: Colour) -> None:
    x, y = np.abs(c.x), c.y
    r = c.vary(0.47, 0.05)
    lobe = shapes.circle(x, y, (0.43, -0.32), r)
    point = shapes.polygon(x, y, [(-0.2, -0.35), (0.45, -0.5), (0.86, -0.12), (0, 0.9), (-0.86, -0.12)])
    c.paint(shapes.blend(lobe, point, 0.06), colour)
    c.shine((-0.42, -0.4), 0.2)


def _mug(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    ring = np.abs(shapes.ellipse(x, y, (0.5, 0.08), (0.36, c.vary(0.36)))) - 0.085
    c.paint(ring, colour * 0.92)
    c.paint(shapes.box(x, y, (-0.15, 0.1), (0.6, 0.75), 0.14), colour)
    c.paint(shapes.ellipse(x, y, (-0.15, -0.62), (0.6, 0.2)), colour * 0.95)
    c.paint(shapes.ellipse(x, y, (-0.15, -0.6), (0.5, 0.14)), DARK)
    c.shine((-0.48, 0.05), 0.2, 0.35)


def _fish(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    c.paint(shapes.polygon(x, y, [(0.35, 0), (0.95, -0.5), (0.82, 0), (0.95, 0.5)]) - 0.03, colour * 0.9)
    c.paint(shapes.polygon(x, y, [(-0.35, -0.3), (0.1, -0.72), (0.35, -0.2)]) - 0.03, colour * 0.9)
    c.paint(shapes.ellipse(x, y, (-0.2, 0), (0.73, c.vary(0.43))), colour)
    c.paint(shapes.polygon(x, y, [(-0.1, 0.05), (0.2, 0.25), (-0.1, 0.28)]), colour * 0.82)
    c.paint(shapes.circle(x, y, (-0.6, -0.1), 0.1), LIGHT)
    c.paint(shapes.circle(x, y, (-0.62, -0.1), 0.05), DARK)


def _key(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    bow = np.abs(shapes.circle(x, y, (-0.1, -0.5), c.vary(0.33, 0.08))) - 0.12
    shaft = shapes.box(x, y, (-0.1, 0.38), (0.11, 0.56), 0.03)
    teeth = shapes.union(
        shapes.box(x, y, (0.2, 0.8), (0.3, 0.13), 0.02), shapes.box(x, y, (0.14, 0.36), (0.24, 0.12), 0.02)
    )
    c.paint(shapes.union(bow, shaft, teeth), colour, depth=0.14)


def _mushroom(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    stalk = shapes.blend(
        shapes.box(x, y, (0, 0.4), (c.vary(0.19), 0.42), 0.1), shapes.ellipse(x, y, (0, 0.75), (0.3, 0.17)), 0.1
    )
    c.paint(stalk, CREAM)
    cap = shapes.intersection(shapes.ellipse(x, y, (0, 0.1), (0.92, 0.98)), shapes.box(x, y, (0, -0.4), (1, 0.56), 0.1))
    c.paint(cap, colour)
    for at in ((-0.45, -0.2), (0.1, -0.5), (0.5, -0.12)):
        c.paint(shapes.intersection(shapes.circle(x, y, at, c.vary(0.11, 0.2)), cap + 0.03), LIGHT)


def _ring(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    c.paint(np.abs(shapes.circle(x, y, (0, 0.2), 0.6)) - c.vary(0.12), colour, depth=0.15)
    gem = shapes.polygon(x, y, [(-0.3, -0.72), (-0.17, -0.92), (0.17, -0.92), (0.3, -0.72), (0, -0.36)])
    c.paint(gem, np.array([0.80, 0.93, 0.98], np.float32))


def _glass_ball(c: Canvas, colour: Colour) -> None:
    distance = shapes.circle(c.x, c.y, (0, 0), 0.9)
    inside = np.clip(-distance / 0.9, 0, 1)
    c.paint(distance, colour, c.vary(0.28, 0.15) + 0.6 * (1 - inside) ** 3, depth=0.6)
    c.cover(0.75 * np.exp(-(((c.x + 0.35) ** 2 + (c.y + 0.4) ** 2) / 0.03)), np.ones_like(c.x)[..., None] * LIGHT)


def _feather(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    spine = 0.18 * (y * y - 0.4)
    u = x - spine
    half = 0.36 * np.sqrt(np.clip(1 - ((y + 0.15) / 0.8) ** 2, 0, 1))
    barbs = 0.5 + 0.5 * np.sin((y * 2 + np.abs(u)) * c.vary(16, 0.1))
    edge = np.clip(1 - np.abs(u) / np.maximum(half, 1e-3), 0, 1)
    inside = (half > 0.02).astype(np.float32)
    c.cover(inside * np.clip(edge * 2.2, 0, 1) * (0.45 + 0.35 * barbs), np.ones_like(x)[..., None] * colour)
    c.paint(np.maximum(np.abs(u) - 0.035, np.abs(y - 0.03) - 0.92), colour * 0.75)


def _cloud(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    puffs = shapes.circle(x, y, (0, -0.12), c.vary(0.46, 0.1))
    for centre, radius in (((-0.48, 0.12), 0.34), ((0.46, 0.08), 0.38), ((0, 0.2), 0.36)):
        puffs = shapes.blend(puffs, shapes.circle(x, y, centre, c.vary(radius, 0.1)), 0.12)
    soft = np.clip(0.5 - puffs / 0.36, 0, 1)
    shade = 1 - 0.18 * np.clip(y + 0.2, -1, 1)
    c.cover(0.92 * soft * soft * (3 - 2 * soft), colour * shade[..., None])


def _smoke(c: Canvas, colour: Colour) -> None:
    alpha = np.zeros_like(c.x)
    sway, turn = c.vary(0.22, 0.3), float(c.rng.uniform(0, 2 * np.pi))
    for i in range(9):
        at = i / 8
        centre = (sway * np.sin(turn + at * 5) * (0.4 + at), 0.8 - 1.5 * at)
        radius = 0.15 + 0.24 * at
        puff = np.exp(-(((c.x - centre[0]) ** 2 + (c.y - centre[1]) ** 2) / radius**2))
        alpha = alpha + (1 - alpha) * (0.6 - 0.3 * at) * puff
    c.cover(np.clip((alpha - 0.03) * 1.05, 0, 1), np.ones_like(c.x)[..., None] * colour)


def _flame(c: Canvas, colour: Colour) -> None:
    sway = c.vary(0.1, 0.6)
    u = c.x - sway * np.sin(2.5 * (c.y + 0.2))
    taper = np.clip((c.y + 0.95) / 1.2, 0, 1) ** 0.8
    drop = shapes.ellipse(u / np.maximum(0.25 + 0.75 * taper, 0.2), c.y, (0, 0.15), (0.55, 0.78))
    c.cover(np.clip(0.5 - drop / 0.42, 0, 1) ** 1.3, np.ones_like(c.x)[..., None] * colour)
    core = np.exp(-((u / 0.22) ** 2 + ((c.y - 0.5) / 0.3) ** 2))
    c.cover(0.55 * core, np.ones_like(c.x)[..., None] * (0.35 * colour + 0.65))


def _moon(c: Canvas, colour: Colour) -> None:
    cut = shapes.circle(c.x, c.y, (c.vary(0.42), -0.12), 0.72)
    c.paint(shapes.without(shapes.circle(c.x, c.y, (-0.05, 0), 0.9), cut) - 0.02, colour)


def _flower(c: Canvas, colour: Colour) -> None:
    petals = 6
    turn = float(c.rng.uniform(-0.12, 0.12))
    for i in range(petals):
        angle = 2 * np.pi * (i + turn) / petals
        u = c.x * np.cos(angle) + c.y * np.sin(angle)
        v = -c.x * np.sin(angle) + c.y * np.cos(angle)
        c.paint(shapes.ellipse(u, v, (0.56, 0), (0.4, c.vary(0.26, 0.08))), colour * (0.95 + 0.05 * (i % 2)), depth=0.2)
    c.paint(shapes.circle(c.x, c.y, (0, 0), 0.24), np.array([0.98, 0.80, 0.25], np.float32))


def _house(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    c.paint(shapes.box(x, y, (0.42, -0.55), (0.1, 0.3)), STEM)
    c.paint(shapes.box(x, y, (0, 0.38), (0.66, 0.52), 0.03), colour)
    c.paint(shapes.polygon(x, y, [(-0.9, -0.1), (0, c.vary(-0.85, 0.06)), (0.9, -0.1)]) - 0.04, colour * 0.78)
    c.paint(shapes.box(x, y, (-0.2, 0.56), (0.17, 0.34), 0.03), CREAM)
    c.paint(shapes.box(x, y, (0.32, 0.38), (0.17, 0.17), 0.02), np.array([0.80, 0.92, 0.98], np.float32))


def _tree(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    c.paint(shapes.box(x, y, (0, 0.68), (0.12, 0.28), 0.03), STEM)
    wide = c.vary(0.68, 0.08)
    for i, top in enumerate((-0.05, -0.45, -0.85)):
        half = wide * (1 - 0.2 * i)
        c.paint(shapes.polygon(x, y, [(-half, top + 0.62), (0, top - 0.08), (half, top + 0.62)]) - 0.03, colour)


def _umbrella(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    c.paint(shapes.segment(x, y, (0, -0.5), (0, 0.72), 0.05), STEM)
    hook = np.abs(shapes.circle(x, y, (0.16, 0.72), 0.16)) - 0.05
    c.paint(shapes.intersection(hook, 0.72 - y), STEM)
    dome = shapes.intersection(shapes.ellipse(x, y, (0, 0.05), (0.93, c.vary(0.86, 0.06))), y - 0.05)
    for at in (-0.62, 0, 0.62):
        dome = shapes.without(dome, shapes.ellipse(x, y, (at, 0.08), (0.31, 0.14)))
    c.paint(dome, colour)
    ribs = shapes.union(np.abs(x - 0.36 * (y + 0.8)) - 0.02, np.abs(x + 0.36 * (y + 0.8)) - 0.02)
    c.paint(shapes.intersection(ribs, dome + 0.02), colour * 0.75)


def _ghost(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    body = shapes.union(shapes.circle(x, y, (0, -0.25), 0.62), shapes.box(x, y, (0, 0.25), (0.62, 0.5)))
    hem = 0.68 + 0.13 * np.cos(x * 10.1 + float(c.rng.uniform(-0.4, 0.4)))
    body = shapes.intersection(body, y - hem)
    fade = np.clip(0.82 - 0.5 * (y + 0.3), 0.2, 0.82)
    c.paint(body, colour, fade)
    for side in (-0.22, 0.22):
        c.paint(shapes.ellipse(x, y, (side, -0.3), (0.1, 0.15)), DARK, 0.85)


def _balloon(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    string = np.abs(x - 0.06 * np.sin(9 * y)) - 0.022
    c.paint(np.maximum(string, np.maximum(0.45 - y, y - 0.97)), DARK)
    c.paint(shapes.polygon(x, y, [(-0.11, 0.55), (0, 0.38), (0.11, 0.55)]) - 0.02, colour * 0.85)
    c.paint(shapes.ellipse(x, y, (0, -0.25), (c.vary(0.6, 0.06), 0.7)), colour)
    c.shine((-0.25, -0.52), 0.18, 0.6)


def _crown(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    tips = [(-0.9, -0.5), (-0.42, 0.05), (0, c.vary(-0.72, 0.1)), (0.42, 0.05), (0.9, -0.5), (0.7, 0.62), (-0.7, 0.62)]
    c.paint(shapes.polygon(x, y, tips) - 0.03, colour)
    c.paint(shapes.box(x, y, (0, 0.5), (0.7, 0.09), 0.03), colour * 0.8)
    for at in ((-0.9, -0.55), (0, -0.76), (0.9, -0.55)):
        c.paint(shapes.circle(x, y, at, 0.1), colour * 0.9)
    c.paint(shapes.ellipse(x, y, (0, 0.22), (0.1, 0.14)), np.array([0.80, 0.93, 0.98], np.float32))


def _boat(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    c.paint(shapes.segment(x, y, (0, -0.9), (0, 0.5), 0.04), STEM)
    c.paint(shapes.polygon(x, y, [(0.08, -0.85), (c.vary(0.72), 0.25), (0.08, 0.25)]), CREAM)
    c.paint(shapes.polygon(x, y, [(-0.08, -0.6), (-0.08, 0.25), (-0.6, 0.25)]), CREAM * 0.95)
    c.paint(shapes.polygon(x, y, [(-0.92, 0.38), (0.92, 0.38), (0.55, 0.86), (-0.55, 0.86)]) - 0.03, colour)


def _bell(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    c.paint(shapes.circle(x, y, (0, 0.72), 0.16), colour * 0.75)
    c.paint(np.abs(shapes.circle(x, y, (0, -0.78), 0.12)) - 0.045, colour * 0.85)
    dome = shapes.intersection(shapes.ellipse(x, y, (0, 0.1), (c.vary(0.52, 0.06), 0.82)), y - 0.3)
    skirt = shapes.polygon(x, y, [(-0.5, 0.1), (0.5, 0.1), (0.8, 0.62), (-0.8, 0.62)])
    c.paint(shapes.blend(dome, skirt, 0.15), colour)
    c.shine((-0.25, -0.2), 0.2, 0.4)


def _soap_bubble(c: Canvas, colour: Colour) -> None:
    distance = shapes.circle(c.x, c.y, (0, 0), 0.9)
    rim = np.exp(-(((distance + 0.08) / 0.09) ** 2))
    film = c.vary(0.12, 0.2) + 0.08 * np.clip(c.y, -1, 1)  # thicker at the bottom
    c.cover(np.clip(0.5 - distance / 0.04, 0, 1) * (film + 0.75 * rim), np.ones_like(c.x)[..., None] * colour)
    arc = np.abs(shapes.circle(c.x, c.y, (0, 0), 0.62)) / 0.09
    upper_left = np.exp(-(((c.x + 0.45) ** 2 + (c.y + 0.45) ** 2) / 0.07))
    c.cover(0.9 * np.exp(-(arc**2)) * upper_left, np.ones_like(c.x)[..., None] * LIGHT)
    c.cover(0.7 * np.exp(-(((c.x - 0.42) ** 2 + (c.y - 0.42) ** 2) / 0.012)), np.ones_like(c.x)[..., None] * LIGHT)


def _lace(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    turn = np.arctan2(y, x) + float(c.rng.uniform(-0.08, 0.08))
    radius = np.hypot(x, y)
    sector = (turn + np.pi / 6) % (np.pi / 3) - np.pi / 6  # six equal parts
    u, v = radius * np.cos(sector), radius * np.sin(sector)
    cloth = shapes.union(shapes.circle(x, y, (0, 0), 0.66), shapes.circle(u, v, (0.6, 0), 0.34))
    holes = shapes.union(
        shapes.circle(u, v, (0.62, 0), c.vary(0.18, 0.08)),
        shapes.circle(x, y, (0, 0), c.vary(0.17, 0.08)),
    )
    c.paint(shapes.without(cloth, holes), colour, depth=0.1)


def _hair(c: Canvas, colour: Colour) -> None:
    x, y = c.x, c.y
    wave = 0.06 * np.clip(y + 0.4, 0, 1) * np.sin(4 * y + float(c.rng.uniform(0, 6)))
    head = shapes.ellipse(x, y, (0, -0.3), (0.68, c.vary(0.58, 0.05)))
    strands = shapes.box(np.abs(x - wave), y, (0.5, 0.2), (0.32, 0.62), 0.15)
    face = shapes.ellipse(x, y, (0, 0.3), (0.27, 0.5))
    body = shapes.without(shapes.blend(head, strands, 0.2), shapes.union(face, shapes.box(x, y, (0, 0.8), (0.22, 0.5))))
    across = np.where(y < -0.1, np.arctan2(x, 0.9 - y) * 1.25, x - wave)  # away from the crown, then straight down
    ripple = np.sin(across * c.vary(19, 0.06))
    loose = 0.2 * np.clip((y + 0.1) / 0.8, 0, 1) * ripple  # the ends are not all of one length
    soft = np.clip(0.5 - (body + loose) / 0.3, 0, 1)
    c.cover(soft * (0.78 + 0.2 * ripple), colour * (1 + 0.25 * ripple)[..., None])


KINDS: dict[str, Callable[[Canvas, Colour], None]] = {
    "apple": _apple,
    "star": _star,
    "leaf": _leaf,
    "heart": _heart,
    "mug": _mug,
    "fish": _fish,
    "key": _key,
    "mushroom": _mushroom,
    "ring": _ring,
    "glass ball": _glass_ball,
    "feather": _feather,
    "cloud": _cloud,
    "smoke": _smoke,
    "flame": _flame,
    "moon": _moon,
    "flower": _flower,
    "house": _house,
    "tree": _tree,
    "umbrella": _umbrella,
    "ghost": _ghost,
    "balloon": _balloon,
    "crown": _crown,
    "boat": _boat,
    "bell": _bell,
    "soap bubble": _soap_bubble,
    "lace": _lace,
    "hair": _hair,
}
STICKERS = ("apple", "star", "heart", "mug", "fish", "mushroom", "flower", "house", "balloon", "crown", "bell")
SOFT = ("glass ball", "feather", "cloud", "smoke", "flame", "ghost", "soap bubble", "hair")
