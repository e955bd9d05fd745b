"""Stage c: U-Net, text encoders and patch, trained together.

Each batch has pictures with backgrounds, which the base draws, and transparent sprites, which the
base draws with the patch. Trained one after the other, on a frozen base, a patch this small made
transparent pictures out of broken shapes: the base had learned its shapes over backgrounds only.
"""

import numpy as np
import torch
from torch import nn

from training import patch, tiny, unet
from training.latents import Latents
from training.loop import Losses, Settings, Stage
from training.place import Place

SETTINGS = Settings(steps=12000, learning_rate=7e-4, average=0.999, weight_decay=0.01)
OPAQUE, TRANSPARENT = 4, 16  # pictures of 128x128 in a batch; fewer, if they are larger


def train(place: Place) -> None:
    """Trains the modules; `diffusion.pt` has all three."""
    modules = unet.base(place)
    low_rank = patch.attach(modules["model"])
    opaque, transparent = unet.latents(place), patch.latents(place)

    def velocity(latents: Latents, count: int, rng: np.random.Generator) -> torch.Tensor:
        batch = latents.draw(count, rng)
        with place.autocast():
            text = tiny.encode_text(modules["text"], batch.tokens)
            return unet.velocity_loss(modules, text, batch.latents, rng) * count / (OPAQUE + TRANSPARENT)

    def loss(rng: np.random.Generator) -> Losses:
        patch.switch(low_rank, on=False)
        without = velocity(opaque, OPAQUE, rng)
        patch.switch(low_rank, on=True)
        return {"opaque": without, "transparent": velocity(transparent, TRANSPARENT, rng)}

    Stage("diffusion", place.state, parts(modules, low_rank), place.settings(SETTINGS), loss, place.seed).run()


def parts(modules: dict[str, nn.Module], low_rank: nn.Module) -> dict[str, nn.Module]:
    """Returns what this stage trains."""
    return {**unet.parts(modules), "patch": low_rank}
