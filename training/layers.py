"""Stage e: two patches that draw a thing onto a given background, and then on its own, with alpha.

The first takes the background's latents and draws the whole picture. The second takes the background's and the
whole picture's, and draws the transparent thing. So the files are for the nodes LayeredDiffusionCondApply and
LayeredDiffusionDiffApply with the config "SDXL, Background".
"""

import numpy as np
import torch
from torch import nn

from training import dataset, low_rank, tiny, unet
from training.autoencoder import trained_autoencoder
from training.latents import SIZES, Latents
from training.loop import Losses, Settings, Stage, load_average
from training.patch import MARGIN
from training.place import Place
from training.transparency import trained as trained_offsets

SETTINGS = Settings(steps=450, learning_rate=1e-3, average=0.98)
RANK = 8
SPRITES_SHARE = 0.125
BATCH = 12  # for each patch
CHANNELS = 4  # of one latent
GIVEN = {"blended": 1, "foreground": 2}  # latents that each patch takes besides the noise


def train(place: Place) -> None:
    """Trains both patches, which do not depend on each other."""
    modules = {name: adapted(place, name) for name in GIVEN}
    data = latents(place)

    def loss(rng: np.random.Generator) -> Losses:
        batch = data.draw(BATCH, rng)
        losses = {}
        with place.autocast():
            text = tiny.encode_text(modules["blended"]["text"], batch.tokens)
            for name, count in GIVEN.items():
                given, clean = batch.latents[:, : count * CHANNELS], batch.latents[:, count * CHANNELS :][:, :CHANNELS]
                losses[name] = unet.velocity_losses(modules[name], text, clean, rng, given).mean()
        return losses

    adapters = {name: parts["adapters"] for name, parts in modules.items()}
    Stage("layers", place.state, adapters, place.settings(SETTINGS), loss, place.seed).run()


def adapted(place: Place, name: str) -> dict[str, nn.Module]:
    """Returns the frozen base with a new patch attached, and the patch as `adapters`."""
    modules = unet.trained_base(place)
    return {**modules, "adapters": low_rank.attach(modules["model"], RANK, GIVEN[name] * CHANNELS)}


def trained(place: Place) -> dict[str, nn.ModuleDict]:
    """Returns the patches that the stage has trained, by their names in GIVEN."""
    adapters = {name: adapted(place, name)["adapters"] for name in GIVEN}
    load_average(place.state / "layers.pt", adapters)
    return adapters


def latents(place: Place) -> Latents:
    """Returns latents of backgrounds, of sprites over them, and of transparent sprites, one after the other."""
    autoencoder = trained_autoencoder(place)
    offsets, _ = trained_offsets(place)
    backgrounds = place.backgrounds()

    def encode(rgb: dataset.Floats, alpha: dataset.Floats, rng: np.random.Generator) -> torch.Tensor:
        behind = dataset.cut_outs(backgrounds, rgb.shape, rng)
        pictures = behind, rgb * alpha + behind * (1 - alpha), dataset.over_grey(rgb, alpha)
        with torch.inference_mode(), place.autocast():
            encoded = [autoencoder.taesd_encoder(place.tensor(picture)).float() for picture in pictures]
            encoded[-1] += offsets.offset(place.tensor(rgb), place.tensor(alpha)).float()
        return torch.cat(encoded, dim=1)

    return Latents(place, "layers", encode, SPRITES_SHARE, MARGIN, SIZES[:1])
