"""Latents of all drawn pictures, with prompts that describe them. The U-Net learns from these."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from comfy.sdxl_clip import SDXLTokenizer
from tqdm import tqdm

from training import dataset, prompts, sprites
from training.place import Place

CHUNK = 32
PROMPTS_OF_PAIR = 160
PAIRS = len(sprites.KINDS) * len(sprites.COLOURS)
Size = tuple[int, int, int, float]
SIZES: tuple[Size, ...] = (  # width, height, number of sprites, how often a batch is of them
    (128, 128, 40 * PAIRS, 0.76),
    (192, 128, 6 * PAIRS, 0.06),
    (128, 192, 6 * PAIRS, 0.06),
    (192, 192, 4 * PAIRS, 0.03),
    (256, 256, 4 * PAIRS, 0.04),
    (64, 64, 16 * PAIRS, 0.05),
)

DIFFICULT = {  # kinds that are drawn badly or are new, and how often they are learned, compared with others
    **dict.fromkeys(("mug", "house", "feather", "smoke", "glass ball", "soap bubble", "lace", "hair"), 1.5),
    "bell": 2.0,
    "key": 2.5,
}
STICKERS_OFTEN = 3.0

Encode = Callable[[dataset.Floats, dataset.Floats, np.random.Generator], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """A batch of one size.

    Attributes:
        latents: scaled for the U-Net, float32 [batch, 4, height / 8, width / 8].
        tokens: of CLIP L and CLIP G, int64 [2, batch, 77].
        sprites, index: the sprites that the latents show.
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    sprites: dataset.Sprites
    index: dataset.Indices


class Latents:
    """The latents of the sprites of all sizes.

    Args:
        name: name of the cached result of `encode`.
        encode: latents of straight colour [n, height, width, 3] and alpha [n, height, width, 1].
        share: of the usual number of sprites.
        margin: around the sprites, see sprites.draw.
        sizes: of the pictures.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        encode: Encode,
        share: float = 1.0,
        margin: float = 0.0,
        sizes: Sequence[Size] = SIZES,
    ) -> None:
        self._device = place.device
        self._tokens = _tokens(place)
        self._sizes = []
        for width, height, count, _ in sizes:
            drawn = place.sprites(width, height, int(share * count), margin)
            path = place.state / "drawn" / f"{name}_{width}x{height}.npy"
            if not path.exists():
                dataset.write(path, _encode(drawn, encode, place.seed, f"{name} {width}x{height}"))
            self._sizes.append((drawn, np.load(path)))

    @staticmethod
    def choose_size(rng: np.random.Generator) -> int:
        """Returns an index into SIZES, with the frequencies given there."""
        return int(rng.choice(len(SIZES), p=[share for *_, share in SIZES]))

    def draw(
        self, count: int, rng: np.random.Generator, size: int = 0, often: Mapping[str, float] = DIFFICULT
    ) -> Batch:
        """Returns a random batch; larger pictures come in smaller batches, so that all take the same time.

        Args:
            count: number of pictures in a batch of the first of SIZES.
            rng: chooses pictures and prompts.
            size: index into SIZES.
            often: how often kinds are chosen, compared with those that are not in it.
        """
        drawn, latents = self._sizes[size]
        width, height, *_ = SIZES[size]
        frequency = np.array([often.get(kind, 1.0) for kind in sprites.KINDS])[drawn.kinds]
        frequency = np.where(drawn.stickers, STICKERS_OFTEN, 1.0) * frequency
        index = rng.choice(
            len(latents), size=max(1, count * 128 * 128 // (width * height)), p=frequency / frequency.sum()
        )
        chosen = latents[index].astype(np.float32)
        pairs = drawn.kinds[index] * len(sprites.COLOURS) + drawn.colours[index] + PAIRS * drawn.stickers[index]
        tokens = self._tokens[:, pairs, rng.integers(PROMPTS_OF_PAIR, size=len(index))]
        return Batch(
            torch.from_numpy(chosen).to(self._device),
            torch.from_numpy(tokens.astype(np.int64)).to(self._device),
            drawn,
            index,
        )


def _encode(drawn: dataset.Sprites, encode: Encode, seed: int, what: str) -> dataset.Floats:
    """Returns float16 [sprites, 4, height / 8, width / 8]."""
    rng = np.random.default_rng(seed)
    chunks = []
    for start in tqdm(range(0, len(drawn), CHUNK), desc=f"latents {what}"):
        rgb, alpha = drawn.floats(np.arange(start, min(start + CHUNK, len(drawn))))
        chunks.append(encode(rgb, alpha, rng).cpu().numpy().astype(np.float16))
    return np.concatenate(chunks)


def _tokens(place: Place) -> dataset.Indices:
    """Returns int32 [2, 2 * PAIRS, PROMPTS_OF_PAIR, 77]: prompts for each kind and colour, then for their stickers."""
    path = place.state / "drawn" / "tokens.npy"
    if not path.exists():
        tokenizer = SDXLTokenizer()
        rng = np.random.default_rng(place.seed)
        unknown = unknown_words(tokenizer)
        pairs = list(itertools.product((False, True), sprites.KINDS, sprites.COLOURS))
        found = [
            [
                tokenize(tokenizer, text)
                for text in [prompts.describe(kind, colour, rng, unknown, sticker) for _ in range(PROMPTS_OF_PAIR)]
            ]
            for sticker, kind, colour in tqdm(pairs, desc="prompts")
        ]
        dataset.write(path, np.moveaxis(np.array(found, np.int32), 2, 0))
    return np.load(path)


def unknown_words(tokenizer: SDXLTokenizer) -> list[str]:
    """Returns the words of CLIP's vocabulary that no other prompt of the training uses."""
    vocabulary = tokenizer.clip_l.tokenizer.get_vocab()
    words = {token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>")}
    return sorted(word for word in words - prompts.known_words() if word.isascii() and word.isalpha() and len(word) > 2)


def tokenize(tokenizer: SDXLTokenizer, text: str) -> list[list[int]]:
    """Returns the first 77 tokens of a prompt, for CLIP L and for CLIP G."""
    tokens = tokenizer.tokenize_with_weights(text)
    return [[token for token, _ in tokens[encoder][0]] for encoder in ("l", "g")]
