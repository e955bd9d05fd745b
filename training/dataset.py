"""The drawn pictures: a fixed set of sprites and backgrounds, drawn once and kept in a folder."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training import backgrounds, sprites

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

GREY = 0.5  # the colour behind a transparent sprite in the opaque pictures that represent it
BACKGROUND_SIZE = 272
CHUNK = 64
KINDS = tuple(sprites.KINDS)
STICKER_EVERY = 6


@dataclass(frozen=True)
class Sprites:
    """Sprites of one size.

    Attributes:
        rgba: uint8 [count, height, width, 4], straight alpha.
        kinds, colours: index into sprites.KINDS and sprites.COLOURS, [count].
        stickers: whether they have a white border, bool [count].
    """

    rgba: Bytes
    kinds: Indices
    colours: Indices
    stickers: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rgba)

    def floats(self, index: Indices) -> tuple[Floats, Floats]:
        """Returns straight colour [n, height, width, 3] and alpha [n, height, width, 1], both in [0, 1]."""
        rgba = self.rgba[index].astype(np.float32) / 255
        return rgba[..., :3], rgba[..., 3:]


def load_sprites(
    folder: Path, name: str, count: int, width: int, height: int, seed: int, margin: float = 0.0
) -> Sprites:
    """Returns the sprites of this name; draws them first if the folder does not have them.

    Kinds and colours alternate, so that each pair occurs equally often; of a kind in sprites.STICKERS,
    one in STICKER_EVERY is a sticker.
    """
    path = folder / f"{name}_{width}x{height}_{count}_{seed}_{margin}.npy"
    pairs = np.arange(count) % (len(sprites.KINDS) * len(sprites.COLOURS))
    kinds, colours = pairs // len(sprites.COLOURS), pairs % len(sprites.COLOURS)
    if not path.exists():
        draw = partial(_draw_sprites, width=width, height=height, seed=seed, margin=margin)
        write(path, _drawn(draw, count, f"sprites {width}x{height}"))
    stickers = np.array([_is_sticker(index) for index in range(count)])
    return Sprites(np.load(path, mmap_mode="r"), kinds, colours, stickers)


def load_backgrounds(folder: Path, count: int, seed: int) -> Bytes:
    """Returns backgrounds, uint8 [count, BACKGROUND_SIZE, BACKGROUND_SIZE, 3], drawing them first if need be."""
    path = folder / f"backgrounds_{BACKGROUND_SIZE}_{count}_{seed}.npy"
    if not path.exists():
        write(path, _drawn(partial(_draw_backgrounds, seed=seed), count, "backgrounds"))
    return np.load(path, mmap_mode="r")


def over_background(rgb: Floats, alpha: Floats, pool: Bytes, rng: np.random.Generator) -> Floats:
    """Returns the sprites over random cut-outs of random backgrounds."""
    return rgb * alpha + cut_outs(pool, rgb.shape, rng) * (1 - alpha)


def cut_outs(pool: Bytes, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Returns random cut-outs of random backgrounds, of shape [n, height, width, 3]."""
    count, height, width, _ = shape
    cuts = np.empty(shape, np.float32)
    for i, which in enumerate(rng.integers(len(pool), size=count)):
        top, left = rng.integers(BACKGROUND_SIZE - height + 1), rng.integers(BACKGROUND_SIZE - width + 1)
        cut = pool[which, top : top + height, left : left + width]
        cuts[i] = cut[:, ::-1] if rng.random() < 0.5 else cut
    return cuts / 255


def over_grey(rgb: Floats, alpha: Floats) -> Floats:
    """Returns the opaque pictures that represent transparent sprites: transparent areas are grey."""
    return rgb * alpha + GREY * (1 - alpha)


def _is_sticker(index: int) -> bool:
    repetition, pair = divmod(index, len(sprites.KINDS) * len(sprites.COLOURS))
    return KINDS[pair // len(sprites.COLOURS)] in sprites.STICKERS and (repetition + pair) % STICKER_EVERY == 0


def _draw_sprites(indices: range, width: int, height: int, seed: int, margin: float) -> Bytes:
    colours = list(sprites.COLOURS)
    drawn = np.empty((len(indices), height, width, 4), np.uint8)
    for i, index in enumerate(indices):
        kind = KINDS[index // len(colours) % len(KINDS)]
        rng = np.random.default_rng([seed, index])
        sprite = sprites.draw(kind, colours[index % len(colours)], width, height, rng, margin, _is_sticker(index))
        drawn[i, ..., :3] = np.rint(sprite.rgb * 255)
        drawn[i, ..., 3] = np.rint(sprite.alpha * 255)
    return drawn


def _draw_backgrounds(indices: range, seed: int) -> Bytes:
    rngs = (np.random.default_rng([seed, index]) for index in indices)
    return np.stack([np.rint(backgrounds.draw(BACKGROUND_SIZE, rng) * 255).astype(np.uint8) for rng in rngs])


def _drawn(draw: "partial[Bytes]", count: int, what: str) -> Bytes:
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor() as pool:
        return np.concatenate(list(tqdm(pool.map(draw, chunks), total=len(chunks), desc=f"drawing {what}")))


def write(path: Path, array: Bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.replace(path)
