# SPDX-License-Identifier: GPL-3.0-or-later
"""The transparent decoder: (RGB picture, latent) -> (alpha, foreground colour).

A U-Net of residual and attention blocks (arXiv 2402.17113, section 3.1). State-dict keys are those
of `vae_transparent_decoder.safetensors`; widths, depth and the levels that have attention are read
from the weights. Layers come from comfy.ops, so that ComfyUI can offload and cast them. Activations
that are no longer needed are overwritten, which on a CPU saves a page fault for every four kilobytes.
"""

from collections.abc import Mapping

import comfy.ops
import torch
import torch.nn.functional as F
from torch import nn

ops = comfy.ops.manual_cast

NORM_GROUPS = 4
NORM_EPS = 1e-5
HEAD_CHANNELS = 8
LATENT_LEVEL = 3  # the latent has an eighth of the picture's height and width
SIDE_MULTIPLE = 64  # six halvings


def silu(x: torch.Tensor) -> torch.Tensor:
    """Returns SiLU of `x`, in place unless gradients need `x`."""
    return F.silu(x, inplace=not x.requires_grad)


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = ops.GroupNorm(NORM_GROUPS, in_channels, eps=NORM_EPS)
        self.conv1 = ops.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = ops.GroupNorm(NORM_GROUPS, out_channels, eps=NORM_EPS)
        self.conv2 = ops.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.conv_shortcut = nn.Identity() if same else ops.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(silu(self.norm1(x)))
        hidden = self.conv2(silu(self.norm2(hidden)))
        return hidden.add_(self.conv_shortcut(x))


class SelfAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.group_norm = ops.GroupNorm(NORM_GROUPS, channels, eps=NORM_EPS)
        self.to_q = ops.Linear(channels, channels)
        self.to_k = ops.Linear(channels, channels)
        self.to_v = ops.Linear(channels, channels)
        self.to_out = nn.ModuleList([ops.Linear(channels, channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            project(tokens).unflatten(-1, (-1, HEAD_CHANNELS)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.to_out[0](attended).transpose(1, 2).unflatten(2, x.shape[2:])


class Resample(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if the level has it."""

    def __init__(self, in_channels: list[int], out_channels: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, out_channels) for channels in in_channels)
        self.attentions = nn.ModuleList(SelfAttention(out_channels) for _ in in_channels if attention)

    def block(self, index: int, x: torch.Tensor) -> torch.Tensor:
        x = self.resnets[index](x)
        return self.attentions[index](x) if self.attentions else x


class MiddleLevel(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([SelfAttention(channels)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class TransparentDecoder(nn.Module):
    """U-Net from a picture and its latent to alpha and colour.

    Args:
        channels: width of each level, highest resolution first.
        attention: whether each level has attention.
        blocks: residual blocks of a level on the way down; one more on the way up.
    """

    def __init__(self, channels: list[int], attention: list[bool], blocks: int) -> None:
        super().__init__()
        last = len(channels) - 1
        self.conv_in = ops.Conv2d(3, channels[0], 3, padding=1)
        self.latent_conv_in = ops.Conv2d(4, channels[LATENT_LEVEL - 1], 1)
        self.down_blocks = nn.ModuleList()
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            above = channels[max(level - 1, 0)]
            below = channels[min(level + 1, last)]
            down = Level([above] + [width] * (blocks - 1), width, attention[level])
            if level < last:
                down.downsamplers = nn.ModuleList([Resample(width, stride=2)])
            self.down_blocks.append(down)
            hidden = [below] + [width] * blocks
            skipped = [width] * blocks + [above]
            up = Level([h + s for h, s in zip(hidden, skipped, strict=True)], width, attention[level])
            if level > 0:
                up.upsamplers = nn.ModuleList([Resample(width, stride=1)])
            self.up_blocks.insert(0, up)
        self.mid_block = MiddleLevel(channels[-1])
        self.conv_norm_out = ops.GroupNorm(NORM_GROUPS, channels[0], eps=NORM_EPS)
        self.conv_out = ops.Conv2d(channels[0], 4, 3, padding=1)

    @classmethod
    def from_weights(cls, tensors: Mapping[str, torch.Tensor]) -> "TransparentDecoder":
        """Returns a decoder with the widths and values of `tensors`.

        Raises:
            ValueError: the tensors are not those of a transparent decoder.
        """
        try:
            levels = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("down_blocks."))
            blocks = 1 + max(int(name.split(".")[3]) for name in tensors if name.startswith("down_blocks.0.resnets."))
            channels = [tensors[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
            attention = [f"down_blocks.{level}.attentions.0.to_q.weight" in tensors for level in range(levels)]
            decoder = cls(channels, attention, blocks)
            decoder.load_state_dict(tensors, strict=True)
        except (KeyError, ValueError, IndexError, RuntimeError) as exc:
            reason = " ".join(str(exc).split())[:300]
            raise ValueError(f"not the weights of a transparent decoder: {reason}") from exc
        return decoder.eval().requires_grad_(False)

    @property
    def activations_per_pixel(self) -> int:
        """Values in memory at the same time, per pixel of one view; measured 430 to 510 at 32 channels."""
        return 16 * self.conv_in.out_channels

    def get_dtype(self) -> torch.dtype:
        """Returns the dtype of the weights; ComfyUI's ModelPatcher asks for it by this name."""
        return self.conv_in.weight.dtype

    def forward(self, pixels: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Returns (B, 4, H, W), unbounded: alpha, then straight RGB.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            latent: (B, 4, H/8, W/8), as the sampler returned it.
        """
        x = self.conv_in(pixels)
        skips = [x]
        for level, down in enumerate(self.down_blocks):
            if level == LATENT_LEVEL:
                x = x + self.latent_conv_in(latent)
            for index in range(len(down.resnets)):
                x = down.block(index, x)
                skips.append(x)
            if hasattr(down, "downsamplers"):
                x = down.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block(x)
        for up in self.up_blocks:
            for index in range(len(up.resnets)):
                x = up.block(index, torch.cat((x, skips.pop()), dim=1))
            if hasattr(up, "upsamplers"):
                x = up.upsamplers[0](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(silu(self.conv_norm_out(x)))
