"""Transparent pictures over a checkerboard: a contact sheet, and a preview in the terminal."""

import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

SQUARE = 8  # pixels
CELL = 192
LABEL = 44
GAP = 8
MAX_COLUMNS = 8
FONT_SIZE = 13
LABEL_CHARACTERS = 28
PREVIEW_PIXELS = 512


def sheet(pictures: Sequence[tuple[Path, str]], output: Path) -> None:
    """Writes a contact sheet of the pictures, in rows, each with its text below it.

    Args:
        pictures: files and their texts, at least one.

    Raises:
        OSError: a picture cannot be read, or the sheet cannot be written.
        ValueError: the suffix of `output` is not that of a picture.
    """
    columns = min(len(pictures), max(4, min(MAX_COLUMNS, round(len(pictures) ** 0.5))))
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * (CELL + LABEL + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_SIZE)
    for index, (path, text) in enumerate(pictures):
        left, top = GAP + index % columns * (CELL + GAP), GAP + index // columns * (CELL + LABEL + GAP)
        page.paste(_checkerboard(CELL, CELL), (left, top))
        with Image.open(path) as picture:
            small = _fitted(picture, CELL)
        page.paste(small, (left + (CELL - small.width) // 2, top + (CELL - small.height) // 2), small)
        label = textwrap.fill(text, LABEL_CHARACTERS, max_lines=2, placeholder=" …")
        draw.multiline_text((left + CELL // 2, top + CELL + 4), label, "black", font, "ma", align="center")
    part = output.with_name(f".{output.name}.part{output.suffix}")
    page.save(part)
    part.replace(output)


def show(path: Path) -> None:
    """Draws the picture in the terminal: with sixels, kitty's protocol, or coloured half blocks.

    Does nothing if standard output is not a terminal, or one without a size, such as that of `docker exec -t`.
    """
    if not sys.stdout.isatty() or os.get_terminal_size(sys.stdout.fileno()).columns == 0:
        return
    with Image.open(path) as picture:
        small = _fitted(picture, PREVIEW_PIXELS)
    ground = _checkerboard(*small.size).convert("RGB")
    ground.paste(small, mask=small)
    from textual_image.renderable import Image as Preview  # asks the terminal what it can do

    Console(file=sys.stdout).print(Preview(ground, width="auto", height="auto"))


def _fitted(picture: Image.Image, pixels: int) -> Image.Image:
    """Returns the picture as RGBA, in a square of this size; small ones are enlarged by whole factors."""
    rgba = picture.convert("RGBA")
    factor = pixels // max(rgba.size)
    if factor >= 2:
        return rgba.resize((rgba.width * factor, rgba.height * factor), Image.Resampling.NEAREST)
    # Resized with premultiplied colours, or the invisible colours of transparent pixels would show at edges.
    premultiplied = rgba.convert("RGBa")
    premultiplied.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    return premultiplied.convert("RGBA")


def _checkerboard(width: int, height: int) -> Image.Image:
    """Returns a checkerboard, which shows through transparent areas."""
    tile = Image.new("L", (2 * SQUARE, 2 * SQUARE), 250)
    tile.paste(205, (SQUARE, 0, 2 * SQUARE, SQUARE))
    tile.paste(205, (0, SQUARE, SQUARE, 2 * SQUARE))
    board = Image.new("L", (width, height))
    for top in range(0, height, 2 * SQUARE):
        for left in range(0, width, 2 * SQUARE):
            board.paste(tile, (left, top))
    return board
