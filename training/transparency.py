"""Stage c, first half: an offset that hides transparency in a latent, and a decoder that finds it there.

As in arXiv 2402.17113, section 3.1: the latent of a transparent sprite is that of an opaque picture
of it plus an offset, small enough that the frozen autoencoder still decodes the same picture.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from views import ORIENTATIONS  # custom_nodes/layerdiffuse_alpha

from training import dataset, tiny
from training.autoencoder import crop, trained_autoencoder
from training.loop import Losses, Settings, Stage, load_average
from training.place import Place

SETTINGS = Settings(steps=1400, learning_rate=1.5e-3, average=0.995)
BATCH = 12
OPAQUE_SHARE = 0.3
NOISE = 0.1  # of the latent
SMALL_OFFSET_WEIGHT = 0.02
STEEPNESS_WEIGHT = 9.0
MEAN_COLOUR_WEIGHT = 0.2  # of a whole sprite: a faint one counts as much as a strong one
CELL = 8  # pixels to a side of one latent pixel
CHANNELS = 96


class OffsetEncoder(nn.Sequential):
    """From straight RGBA [batch, 4, height, width] in [0, 1] to an offset [batch, 4, height / 8, width / 8]."""

    def __init__(self) -> None:
        super().__init__(
            nn.PixelUnshuffle(CELL),
            nn.Conv2d(4 * CELL * CELL, CHANNELS, 1),
            nn.SiLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(CHANNELS, 4, 1),
        )
        self[-1].weight.data.mul_(0.5)

    def offset(self, rgb: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Returns the offset of a sprite: zero if it is opaque; colour under zero alpha is ignored."""
        return self(torch.cat((rgb * alpha, 1 - alpha), dim=1)) * (1 - F.avg_pool2d(alpha, CELL))


def train(place: Place) -> None:
    """Trains offset encoder and decoder together and saves both in `transparency.pt`."""
    autoencoder = trained_autoencoder(place)
    encoder, decoder = OffsetEncoder().to(place.device), tiny.transparent_decoder().to(place.device)
    sprites, backgrounds = place.sprites(), place.backgrounds()

    def loss(rng: np.random.Generator) -> Losses:
        rgb, alpha = sprites.floats(rng.integers(len(sprites), size=BATCH))
        opaque = rng.random((BATCH, 1, 1, 1)) < OPAQUE_SHARE
        over = dataset.over_background(rgb, alpha, backgrounds, rng)
        rgb, alpha = np.where(opaque, over, rgb), np.where(opaque, 1, alpha)
        rgba = place.tensor(crop(np.concatenate((rgb, alpha), axis=-1), rng))
        rgb, alpha = rgba[:, :3], rgba[:, 3:]
        picture = rgb * alpha + dataset.GREY * (1 - alpha)
        with place.autocast():
            plain = autoencoder.taesd_encoder(picture).float()
            offset = encoder.offset(rgb, alpha).float()
            latent = plain + offset + NOISE * torch.rand(BATCH, 1, 1, 1, device=plain.device) * torch.randn_like(plain)
            decoded = autoencoder.taesd_decoder(latent).float()
        known, weight = torch.ones_like(alpha), alpha.clamp(min=0.02)  # colour counts in proportion to its alpha
        return {
            **decoder_losses(decoder, decoded, latent, rgb, alpha, known, weight, place),
            "same picture": ((0.3 + alpha) * (decoded - picture).abs()).mean(),
            "small offset": SMALL_OFFSET_WEIGHT * offset.square().mean(),
        }

    Stage(
        "transparency",
        place.state,
        {"encoder": encoder, "decoder": decoder},
        place.settings(SETTINGS),
        loss,
        place.seed,
    ).run()


def trained(place: Place) -> tuple[OffsetEncoder, nn.Module]:
    """Returns offset encoder and decoder as this stage has trained them."""
    encoder, decoder = OffsetEncoder().to(place.device), tiny.transparent_decoder().to(place.device)
    load_average(place.state / "transparency.pt", {"encoder": encoder, "decoder": decoder})
    return encoder, decoder


def decoder_losses(
    decoder: nn.Module,
    pictures: torch.Tensor,
    latent: torch.Tensor,
    rgb: torch.Tensor,
    alpha: torch.Tensor,
    known: torch.Tensor,
    weight: torch.Tensor,
    place: Place,
) -> Losses:
    """Returns the decoder's losses for a sprite in one of the eight views that vote.

    Args:
        pictures: what the autoencoder decodes, [batch, 3, height, width].
        latent: [batch, 4, height / 8, width / 8], of unit variance.
        known: [batch, 1, height, width], one if alpha and colour are known, else zero.
        weight: of the colour, [batch, 1, height, width].
    """
    view = ORIENTATIONS[8][int(torch.randint(8, ()))]
    parts = (pictures, latent, rgb, alpha, known, weight)
    pictures, latent, rgb, alpha, known, weight = (view.turn(part) for part in parts)
    with place.autocast():
        decoded = decoder(pictures.clamp(0, 1), latent / tiny.LATENT_SCALE).float()
    found, colour = clipped(decoded[:, :1], alpha), decoded[:, 1:]
    wrong = known * (colour - rgb)
    visible = (known * alpha).sum((2, 3)).clamp(min=1)
    # Neither the square of the error nor the error of the gradient: both blur outlines whose place is uncertain.
    return {
        "alpha": 3 * (known * (found - alpha)).abs().mean(),
        "colour": (weight * wrong.abs()).mean(),
        "mean colour": MEAN_COLOUR_WEIGHT * ((alpha * wrong).sum((2, 3)) / visible).abs().mean(),
        "steepness": STEEPNESS_WEIGHT * (steepness(known * found) - steepness(known * alpha)).abs().mean(),
    }


def clipped(found: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Returns the alpha that was found without what exceeds 0 or 1 on the right side; jobs clip it anyway.

    So the decoder may cross an outline with a steeper slope than one that has to end at exactly 0 and 1.
    """
    found = torch.where(alpha >= 1, found.clamp(max=1), found)
    return torch.where(alpha <= 0, found.clamp(min=0), found)


def steepness(alpha: torch.Tensor) -> torch.Tensor:
    """Returns the mean gradient of alpha around each pixel, [batch, 1, height - 4, width - 4].

    It does not change if an outline moves by a pixel. So its error, unlike that of the gradient, does not blur
    outlines whose place is uncertain.
    """
    down, right = alpha.diff(dim=2)[..., :-1], alpha.diff(dim=3)[:, :, :-1]
    return F.avg_pool2d((down.square() + right.square() + 1e-6).sqrt(), kernel_size=4, stride=1)
