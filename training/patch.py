"""The low-rank attention patch, and the latents with transparency that it learns from."""

import numpy as np
import torch
from torch import nn

from training import dataset
from training.autoencoder import trained_autoencoder
from training.latents import Latents
from training.loop import load_average
from training.place import Place
from training.transparency import trained
from training.unet import trained_base

RANK = 16
SPRITES_SHARE = 0.5
MARGIN = 0.09
PATCHED = ("to_q", "to_k", "to_v", "to_out.0")


class LowRank(nn.Module):
    """The difference that a patch adds to one linear layer: up @ down."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.drawn_with: torch.Tensor | None = None

    def forward(self, _: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """Returns the layer's output with the patch's added; a forward hook."""
        taken = inputs[0] if self.drawn_with is None else inputs[0] * self.drawn_with.to(inputs[0])
        return output + taken @ self.down.T @ self.up.T


def attach(model: nn.Module) -> nn.ModuleDict:
    """Returns a new patch of the attention of `model.diffusion_model`, already attached to it.

    Its keys are those of the layers, with `/` instead of dots, which a ModuleDict does not accept.
    """
    patch = nn.ModuleDict()
    for name, layer in model.diffusion_model.named_modules():
        if name.endswith(PATCHED):
            patch[name.replace(".", "/")] = low_rank = LowRank(layer, RANK)
            layer.register_forward_hook(low_rank)
    return patch.to(next(model.diffusion_model.parameters()).device)


def switch(patch: nn.ModuleDict, on: torch.Tensor) -> None:
    """Sets which pictures of a batch the model draws with the patch.

    Args:
        on: one for pictures with the patch, zero for pictures without it, [batch].
    """
    for low_rank in patch.values():
        low_rank.drawn_with = on[:, None, None]


def trained_patched(place: Place) -> dict[str, nn.Module]:
    """Returns the frozen base with the trained patch attached, and the patch itself as `patch`."""
    modules = trained_base(place)
    patch = attach(modules["model"])
    load_average(place.state / "diffusion.pt", {"patch": patch})
    return {**modules, "patch": patch.requires_grad_(False)}


def latents(place: Place) -> Latents:
    """Returns the latents of all sprites, with the offset that encodes their transparency."""
    autoencoder = trained_autoencoder(place)
    offsets, _ = trained(place)

    def encode(rgb: dataset.Floats, alpha: dataset.Floats, _: np.random.Generator) -> torch.Tensor:
        colour, opacity = place.tensor(rgb), place.tensor(alpha)
        with torch.inference_mode(), place.autocast():
            picture = autoencoder.taesd_encoder(place.tensor(dataset.over_grey(rgb, alpha)))
            return picture.float() + offsets.offset(colour, opacity).float()

    return Latents(place, "transparent", encode, SPRITES_SHARE, MARGIN)
