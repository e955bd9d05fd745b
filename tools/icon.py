"""Draws .runpod/icon.png: an apple that stands free on the checkerboard that stands for transparency."""

import math
from pathlib import Path

from PIL import Image, ImageDraw

ICON = Path(__file__).resolve().parents[1] / ".runpod" / "icon.png"
SIZE = 256
SCALE = 4  # drawn larger and scaled down, for smooth edges
FIELDS = 8  # of the checkerboard, in each direction
CORNER = 48
LIGHT, DARK = (245, 246, 248), (216, 220, 226)
RED, SHINE, STALK, LEAF = (214, 48, 49), (240, 120, 118), (99, 64, 40), (76, 153, 76)

Box = tuple[float, float, float, float]


def main() -> None:
    """Writes the file."""
    draw_icon().save(ICON, optimize=True)


def draw_icon() -> Image.Image:
    """Returns the icon, RGBA, 256x256 pixels, with transparent corners."""
    side = SIZE * SCALE
    board = Image.new("RGB", (FIELDS, FIELDS))
    board.putdata([LIGHT if (column + row) % 2 else DARK for row in range(FIELDS) for column in range(FIELDS)])
    icon = board.resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(icon)
    for box in ((48, 80, 150, 196), (106, 80, 208, 196), (52, 92, 204, 208), (56, 104, 200, 222)):
        draw.ellipse(_scaled(box), fill=RED)
    draw.ellipse(_scaled((68, 100, 98, 140)), fill=SHINE)
    draw.line(_scaled((128, 100, 136, 50)), fill=STALK, width=10 * SCALE)
    draw.polygon(_leaf(138, 74, 72), fill=LEAF)
    corners = Image.new("L", (side, side))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, side - 1, side - 1), CORNER * SCALE, fill=255)
    icon.putalpha(corners)
    return icon.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _leaf(left: float, bottom: float, length: float) -> list[tuple[float, float]]:
    """Returns the outline of a leaf that points to the upper right."""
    steps = [step / 40 for step in range(41)]
    bulges = [(along, math.sin(math.pi * along) / 4) for along in steps]
    outline = bulges + [(along, -bulge) for along, bulge in reversed(bulges)]
    diagonal = length / math.sqrt(2) * SCALE
    return [
        (left * SCALE + (along - bulge) * diagonal, bottom * SCALE - (along + bulge) * diagonal)
        for along, bulge in outline
    ]


def _scaled(box: Box) -> Box:
    return (box[0] * SCALE, box[1] * SCALE, box[2] * SCALE, box[3] * SCALE)


if __name__ == "__main__":
    main()
