"""Stage c: U-Net, text encoders and patch, trained together.

Each batch has pictures with backgrounds, which the base draws, and transparent sprites, which the
base draws with the patch. Trained one after the other, on a frozen base, a patch this small made
transparent pictures out of broken shapes: the base had learned its shapes over backgrounds only.
"""

import numpy as np
import torch
from torch import nn

from training import patch, tiny, unet
from training.loop import Losses, Settings, Stage
from training.place import Place

SETTINGS = Settings(steps=12000, learning_rate=7e-4, average=0.995, weight_decay=0.01)
OPAQUE, TRANSPARENT = 4, 20  # pictures of 128x128 in a batch; fewer, if they are larger


def train(place: Place) -> None:
    """Trains the modules; `diffusion.pt` has all three."""
    modules = unet.base(place)
    low_rank = patch.attach(modules["model"])
    opaque, transparent = unet.latents(place), patch.latents(place)

    def loss(rng: np.random.Generator) -> Losses:
        size = opaque.choose_size(rng)
        batches = opaque.draw(OPAQUE, rng, size), transparent.draw(TRANSPARENT, rng, size)
        without, both = len(batches[0].latents), torch.cat([batch.latents for batch in batches])
        patch.switch(low_rank, (torch.arange(len(both), device=both.device) >= without).float())
        with place.autocast():
            text = tiny.encode_text(modules["text"], torch.cat([batch.tokens for batch in batches], dim=1))
            velocity = unet.velocity_losses(modules, text, both, rng)
        return {
            "opaque": velocity[:without].sum() / len(both),
            "transparent": velocity[without:].sum() / len(both),
        }

    Stage("diffusion", place.state, parts(modules, low_rank), place.settings(SETTINGS), loss, place.seed).run()


def parts(modules: dict[str, nn.Module], low_rank: nn.Module) -> dict[str, nn.Module]:
    """Returns what this stage trains."""
    return {**unet.parts(modules), "patch": low_rank}
