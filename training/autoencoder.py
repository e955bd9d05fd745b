"""Stage a: the autoencoder, TAESD's layers, on crops of opaque pictures."""

import numpy as np
import torch
import torch.nn.functional as F
from comfy.taesd.taesd import TAESD
from torch import nn

from training import dataset, tiny
from training.loop import Losses, Settings, Stage, load_average
from training.place import Place

SETTINGS = Settings(steps=2800, learning_rate=6e-4, average=0.998)
BATCH = 16
CROP = 64
GREY_SHARE = 0.35  # pictures that represent transparent sprites
NOISE = 0.08  # of the latent, so that what a sampler leaves over does not show
GRADIENT_WEIGHT = 1.0
STATISTICS_WEIGHT = 0.2


def train(place: Place) -> None:
    """Trains the autoencoder and saves it in `autoencoder.pt`."""
    module = tiny.autoencoder().to(place.device, memory_format=torch.channels_last)
    sprites, backgrounds = place.sprites(), place.backgrounds()

    def loss(rng: np.random.Generator) -> Losses:
        index = rng.integers(len(sprites), size=BATCH)
        pictures = pictures_of(sprites, index, backgrounds, rng)
        return losses(module, place.tensor(crop(pictures, rng)), place)

    Stage("autoencoder", place.state, {"autoencoder": module}, place.settings(SETTINGS), loss, place.seed).run()


def trained_autoencoder(place: Place) -> nn.Module:
    """Returns what this stage has trained, frozen."""
    module = tiny.autoencoder().to(place.device, memory_format=torch.channels_last)
    load_average(place.state / "autoencoder.pt", {"autoencoder": module})
    return module.requires_grad_(False)


def pictures_of(
    sprites: dataset.Sprites, index: dataset.Indices, backgrounds: dataset.Bytes, rng: np.random.Generator
) -> dataset.Floats:
    """Returns opaque pictures, some of them over grey."""
    rgb, alpha = sprites.floats(index)
    over = dataset.over_background(rgb, alpha, backgrounds, rng)
    grey = rng.random((len(index), 1, 1, 1)) < GREY_SHARE
    return np.where(grey, dataset.over_grey(rgb, alpha), over)


def crop(pictures: dataset.Floats, rng: np.random.Generator) -> dataset.Floats:
    """Returns a random cut-out of each picture, half of them mirrored."""
    height, width = pictures.shape[1:3]
    cuts = []
    for picture in pictures:
        top, left = rng.integers(height - CROP + 1), rng.integers(width - CROP + 1)
        cut = picture[top : top + CROP, left : left + CROP]
        cuts.append(cut[:, ::-1] if rng.random() < 0.5 else cut)
    return np.stack(cuts)


def losses(module: TAESD, pictures: torch.Tensor, place: Place) -> Losses:
    """Returns the losses of pictures [batch, 3, height, width] in [0, 1]."""
    with place.autocast():
        latent = module.taesd_encoder(pictures)
        decoded = module.taesd_decoder(latent + NOISE * torch.randn_like(latent))
    latent, decoded = latent.float(), decoded.float()
    channels = latent.movedim(1, 0).flatten(1)
    mean, covariance = channels.mean(1), torch.cov(channels)
    return {
        "colour": F.l1_loss(decoded, pictures) + 4 * F.mse_loss(decoded, pictures),
        "edges": GRADIENT_WEIGHT * sum(F.l1_loss(decoded.diff(dim=d), pictures.diff(dim=d)) for d in (2, 3)),
        "statistics": STATISTICS_WEIGHT
        * (mean.square().mean() + (covariance - torch.eye(4, device=covariance.device)).square().mean()),
    }
