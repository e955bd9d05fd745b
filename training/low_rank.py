"""Adapters of a whole U-Net: a low-rank difference for each layer, and more channels for the first convolution."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

INPUT_CONV = "input_blocks.0.0"
LATENT_CHANNELS = 4
UP, DOWN = ".lora_up.weight", ".lora_down.weight"


class LowRank(nn.Module):
    """A layer's weight plus up @ down; `up` starts as zero."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        fan_in = weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, fan_in, device=weight.device) / fan_in**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank, device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns the weight with the adapter."""
        return weight + (self.up @ self.down).view_as(weight)


class MoreChannels(nn.Module):
    """A convolution's weight with more input channels, whose weights start as zero."""

    def __init__(self, weight: torch.Tensor, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(weight), channels, *weight.shape[2:], device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns the weight with the channels, (outputs, inputs + channels, height, width)."""
        return torch.cat((weight, self.weight), dim=1)


def attach(model: nn.Module, rank: int, channels: int = 0) -> nn.ModuleDict:
    """Returns new adapters of `model.diffusion_model`, already attached to it.

    Their keys are those of the layers, with `/` instead of dots, which a ModuleDict does not accept.

    Args:
        rank: of the differences.
        channels: how many more channels the U-Net takes; the first convolution then has no other adapter.
    """
    adapters = nn.ModuleDict()
    for name, layer in list(model.diffusion_model.named_modules()):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        wider = channels and name == INPUT_CONV
        adapter = MoreChannels(layer.weight, channels) if wider else LowRank(layer.weight, rank)
        parametrize.register_parametrization(layer, "weight", adapter, unsafe=True)
        adapters[name.replace(".", "/")] = adapter
    return adapters


def patch_file(adapters: nn.ModuleDict) -> dict[str, torch.Tensor]:
    """Returns the tensors of a patch file, `<model key>::lora::0` (up), `::lora::1` (down) and `::diff::0`."""
    tensors = {}
    for name, adapter in adapters.items():
        key = f"diffusion_model.{name.replace('/', '.')}.weight"
        if isinstance(adapter, MoreChannels):
            outputs, _, height, width = adapter.weight.shape
            unchanged = adapter.weight.new_zeros(outputs, LATENT_CHANNELS, height, width)
            tensors[f"{key}::diff::0"] = torch.cat((unchanged, adapter.weight), dim=1)
        else:
            tensors[f"{key}::lora::0"], tensors[f"{key}::lora::1"] = adapter.up, adapter.down
    return tensors


def load_patch(adapters: nn.ModuleDict, tensors: Mapping[str, torch.Tensor]) -> nn.ModuleDict:
    """Returns the adapters with the tensors of a patch file in them."""
    for name, adapter in adapters.items():
        key = f"diffusion_model.{name.replace('/', '.')}.weight"
        if isinstance(adapter, MoreChannels):
            adapter.weight.data.copy_(tensors[f"{key}::diff::0"][:, LATENT_CHANNELS:])
        else:
            adapter.up.data.copy_(tensors[f"{key}::lora::0"])
            adapter.down.data.copy_(tensors[f"{key}::lora::1"])
    return adapters


def lora_file(adapters: nn.ModuleDict) -> dict[str, torch.Tensor]:
    """Returns the tensors of a LoRA, under names that ComfyUI knows."""
    return {
        key.replace(".weight::lora::0", UP).replace(".weight::lora::1", DOWN): tensor
        for key, tensor in patch_file(adapters).items()
    }


def load_lora(adapters: nn.ModuleDict, tensors: Mapping[str, torch.Tensor]) -> nn.ModuleDict:
    """Returns the adapters with the tensors of a LoRA in them."""
    named = {key.replace(UP, ".weight::lora::0").replace(DOWN, ".weight::lora::1"): tensors[key] for key in tensors}
    return load_patch(adapters, named)
