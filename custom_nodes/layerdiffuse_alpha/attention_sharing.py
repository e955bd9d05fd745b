# SPDX-License-Identifier: GPL-3.0-or-later
"""Attention sharing, LayerDiffuse for SD 1.5: the pictures of one scene (its frames) attend to each other.

Each attention of the U-Net is replaced. In the new one, the linear layers have a low-rank difference per
frame, and a second attention runs across the frames at each position. In the batch, the frames of a
scene follow each other. Maths and state-dict keys: huchenlei/ComfyUI-layerdiffuse 1.0.4
(lib_layerdiffusion/attention_sharing.py), after lllyasviel/sd-forge-layerdiffuse.

Everything that belongs to one prompt (control image, conditioning of each frame) arrives in
`transformer_options`, so the modules contain only weights. Layers come from comfy.ops, so that ComfyUI
can move and cast them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from torch import nn

from .patch import NAMED_FAULTS, PatchError

ops = comfy.ops.manual_cast

BLOCKS = (
    *(f"input_blocks.{index}" for index in (1, 2, 4, 5, 7, 8)),
    *(f"output_blocks.{index}" for index in range(3, 12)),
    "middle_block",
)
# In the order of the file's `hookers.layers.<index>`.
ATTENTIONS = tuple(
    f"diffusion_model.{block}.1.transformer_blocks.0.{kind}" for block in BLOCKS for kind in ("attn1", "attn2")
)
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
TEMPORAL = ("i", "q", "k", "v", "o")
TEMPORAL_NORM_EPS = 1e-6

# Strides of the control encoder's convolutions, which have even indices; each is followed by SiLU.
ENCODER_STRIDES = ((1, 1, 2, 1, 2, 1, 2, 1), (2, 1), (2, 1), (2, 1))
LATENT_SCALE = 8

CONTROL = "layerdiffuse_control"  # key of transformer_options: a Control
COND_OVERWRITE = "cond_overwrite"  # the old pack's key: a conditioning tensor or None for each frame
FRAMED_CONTEXT = "layerdiffuse_framed_context"  # shared by the units of one U-Net call
COND = 0  # ComfyUI's mark of the positive conditioning in `cond_or_uncond`

Tensors = Mapping[str, torch.Tensor]
Shape = tuple[int, ...]


class LowRank(nn.Module):
    """The low-rank differences that the frames add to one linear layer.

    Both factors are in one weight, frame after frame: row = a row of down, then a column of up. So one cast
    is enough for both, and neither must stay valid while another layer is cast (ComfyUI's offloading
    reuses its buffers).
    """

    def __init__(self, downs: Sequence[torch.Tensor], ups: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.frames = len(downs)
        factors = [torch.cat((down, up.T), dim=1) for down, up in zip(downs, ups, strict=True)]
        self.factors = _linear(torch.cat(factors))

    def forward(self, base: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Returns (frames, n, out): `base` of x (frames, n, in) plus each frame's difference.

        Adds the differences to the weight if that takes fewer operations than the low-rank path.
        """
        width, positions = x.shape[2], x.shape[1]
        width_out = self.factors.in_features - width
        if width * width_out < positions * (width + width_out) and _is_plain(base):
            with _cast(self.factors, x) as (factors, _):
                down, up = factors.unflatten(0, (self.frames, -1)).split((width, width_out), dim=2)
                merged = torch.bmm(up.mT, down)
            with _cast(base, x) as (weight, bias):
                merged += weight
                return torch.bmm(x, merged.mT) if bias is None else torch.baddbmm(bias, x, merged.mT)
        out = base(x)
        with _cast(self.factors, x) as (factors, _):
            down, up = factors.unflatten(0, (self.frames, -1)).split((width, width_out), dim=2)
            return torch.baddbmm(out, torch.bmm(x, down.mT), up)


class FrameAttention(nn.Module):
    """Attention of each image position over the frames."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        super().__init__()
        weight, bias = tensors[f"{prefix}temporal_n.weight"], tensors[f"{prefix}temporal_n.bias"]
        self.n = ops.LayerNorm(weight.shape[0], eps=TEMPORAL_NORM_EPS)
        _set(self.n, weight, bias)
        for name in TEMPORAL:
            layer = _linear(*(tensors[f"{prefix}temporal_{name}.{part}"] for part in ("weight", "bias")))
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """Returns the same shape as x, (frames, n, width)."""
        x = self.i(self.n(x))
        if x.shape[0] == 1:
            return self.o(self.v(x))  # the softmax over one frame is one
        return self.o(attend_over_frames(self.q(x), self.k(x), self.v(x), heads))


class SharingLayer(nn.Module):
    """The weights of `hookers.layers.<index>`.

    Args:
        tensors: a file's tensors, already checked by `check`, in the dtype that the layer shall have.
    """

    def __init__(self, tensors: Tensors, index: int, frames: int) -> None:
        super().__init__()
        self.index = index
        self.frames = frames
        prefix = _layer(index)
        for name in PROJECTIONS:
            downs, ups = (
                [tensors[f"{prefix}{name}_lora.{frame}.{factor}.weight"] for frame in range(frames)]
                for factor in ("down", "up")
            )
            self.add_module(name, LowRank(downs, ups))
        self.temporal = FrameAttention(tensors, prefix)
        self.control = None
        if f"{prefix}control_convs.0.0.weight" in tensors:
            # All frames see the same signal: one convolution to all frames' channels, then one group per frame.
            first, second = (
                [
                    torch.cat([tensors[f"{prefix}control_convs.{frame}.{layer}.{part}"] for frame in range(frames)])
                    for part in ("weight", "bias")
                ]
                for layer in (0, 2)
            )
            self.control = nn.Sequential(_conv(*first, padding=1), nn.SiLU(), _conv(*second, groups=frames))


class Control:
    """A control image as the units see it.

    Args:
        image: (B, 3, H, W) in [0, 1].
        tensors: a file's tensors, already checked by `check` with a control.
    """

    def __init__(self, image: torch.Tensor, tensors: Tensors) -> None:
        self.image_size = tuple(image.shape[2:])
        self._signals = encode_control(image, tensors)
        self._added: dict[tuple[int, torch.device, torch.dtype], torch.Tensor] = {}

    def added(self, layer: SharingLayer, size: Shape, latent_size: Shape, like: torch.Tensor) -> torch.Tensor:
        """Returns what `layer` adds, (frames, B, h * w, width); computed once, because it does not change.

        Args:
            size: (h, w) of the layer's positions.
            latent_size: (h, w) of the latent.

        Raises:
            ValueError: the image does not fit the latent.
        """
        if latent_size != next(iter(self._signals)):
            height, width = self.image_size
            fitting = " x ".join(str(LATENT_SCALE * side) for side in reversed(latent_size))
            raise ValueError(f"control image is {width} x {height}, expected {fitting} for this latent")
        key = layer.index, like.device, like.dtype
        if key not in self._added:
            added = layer.control(self._signals[size].to(like))
            self._added[key] = added.flatten(2).unflatten(1, (layer.frames, -1)).permute(1, 0, 3, 2).contiguous()
        return self._added[key]


class SharedAttention(nn.Module):
    """Replaces a comfy.ldm CrossAttention and uses its linear layers, under the same names.

    So ComfyUI finds the model's weights under the same keys, and other patches of them still apply.
    """

    def __init__(self, attention: nn.Module, layer: SharingLayer) -> None:
        super().__init__()
        self.heads = attention.heads
        self.attn_precision = attention.attn_precision
        self.to_q, self.to_k, self.to_v, self.to_out = (getattr(attention, name) for name in PROJECTIONS)
        self.sharing = layer
        self.is_cross = layer.index % 2 == 1

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        *,
        transformer_options: dict[str, Any],
    ) -> torch.Tensor:
        """Returns what the attention adds to x, of the shape of x (batch, positions, width).

        Raises:
            ValueError: the batch is not a multiple of the frames, or the control does not fit.
        """
        layer, frames = self.sharing, self.sharing.frames
        batch, positions, width = x.shape
        chunks = len(transformer_options.get("cond_or_uncond", (COND,)))
        pictures = batch // chunks
        if pictures % frames:
            raise ValueError(f"batch size is {pictures}, expected a multiple of {frames} ({frames}N)")
        scenes = pictures // frames
        hidden = by_frame(x, frames)
        added = None
        if layer.control is not None:
            added = self._control(transformer_options, chunks, scenes, hidden)
            hidden = hidden + added
        if context is None:
            keys = values = hidden.flatten(1, 2)
        else:
            keys = self._context(context, transformer_options)
            values = keys if value is None or value is context else self._context(value, transformer_options)
        hidden = hidden.flatten(1, 2)
        q = layer.to_q(self.to_q, hidden)
        k = layer.to_k(self.to_k, keys)
        v = layer.to_v(self.to_v, values)
        q, k, v = (part.view(batch, -1, part.shape[-1]) for part in (q, k, v))
        attended = optimized_attention(
            q, k, v, self.heads, attn_precision=self.attn_precision, transformer_options=transformer_options
        )
        linear, dropout = self.to_out
        attended = dropout(layer.to_out(linear, attended.view(frames, -1, attended.shape[-1])))
        out = attended + layer.temporal(hidden + attended, self.heads)
        out = out.view(frames, chunks * scenes, positions, width)
        if added is not None:
            out = out + added
        return out.transpose(0, 1).reshape(batch, positions, width)

    def _context(self, context: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        if not self.is_cross:
            return by_frame(context, self.sharing.frames).flatten(1, 2)
        known, framed = transformer_options.get(FRAMED_CONTEXT, (None, None))
        if known is not context:
            framed = by_frame(context, self.sharing.frames)
            overwrites = transformer_options.get(COND_OVERWRITE, ())
            framed = overwrite(framed, overwrites, transformer_options.get("cond_or_uncond", (COND,))).flatten(1, 2)
            transformer_options[FRAMED_CONTEXT] = context, framed
        return framed

    def _control(
        self, transformer_options: dict[str, Any], chunks: int, scenes: int, hidden: torch.Tensor
    ) -> torch.Tensor:
        size, latent_size = (tuple(transformer_options[key][2:]) for key in ("activations_shape", "original_shape"))
        added = transformer_options[CONTROL].added(self.sharing, size, latent_size, hidden)
        images = added.shape[1]
        if images not in (1, scenes):
            raise ValueError(
                f"control has {images} images, expected 1 or {scenes} (batch size / {self.sharing.frames})"
            )
        return added.repeat(1, chunks, 1, 1) if images > 1 else added


def attend_over_frames(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Returns the attention over the first dimension, of the shape of q, k and v: (frames, n, width).

    Two or three frames are too few for attention kernels: computing it element by element takes a sixth of
    scaled_dot_product_attention's time on a CPU, and needs no other layout.
    """
    q, k, v = (part.unflatten(2, (heads, -1)) for part in (q, k, v))
    scores = torch.stack([(one * k).sum(-1, dtype=torch.promote_types(q.dtype, torch.float32)) for one in q])
    shares = (scores * q.shape[-1] ** -0.5).softmax(1).to(v).unsqueeze(-1)
    out = []
    for share in shares:
        mixed = share[0] * v[0]
        for part, values in zip(share[1:], v[1:], strict=True):
            mixed = mixed.addcmul_(part, values)
        out.append(mixed)
    return torch.stack(out).flatten(2)


def by_frame(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Returns x (batch, ...) as (frames, batch / frames, ...); in x, the frames of a scene follow each other."""
    return x.unflatten(0, (-1, frames)).transpose(0, 1).contiguous()


def overwrite(framed: torch.Tensor, conds: Sequence[torch.Tensor | None], kinds: Sequence[int]) -> torch.Tensor:
    """Returns the contexts with those of the positive prompt replaced, frame by frame.

    If the numbers of tokens differ, all are repeated to their least common multiple, as ComfyUI does
    (comfy/conds.py CONDCrossAttn): attention to repeated tokens has the same result.

    Args:
        framed: (frames, chunks * scenes, tokens, width).
        conds: for each frame (1 or scenes, tokens, width), or None to leave it.
        kinds: for each chunk 0 (positive prompt) or another number.
    """
    conds = [(frame, cond) for frame, cond in enumerate(conds[: framed.shape[0]]) if cond is not None]
    if not conds or COND not in kinds:
        return framed
    tokens = framed.shape[2]
    together = math.lcm(tokens, *(cond.shape[1] for _, cond in conds))
    chunked = framed.repeat(1, 1, together // tokens, 1).unflatten(1, (len(kinds), -1))
    for frame, cond in conds:
        new = cond.to(framed).repeat(1, together // cond.shape[1], 1)
        for chunk, kind in enumerate(kinds):
            if kind == COND:
                chunked[frame, chunk] = new
    return chunked.flatten(1, 2)


def encode_control(image: torch.Tensor, tensors: Tensors) -> dict[Shape, torch.Tensor]:
    """Returns {(h, w): signal (B, channels, h, w)} for an eighth of the image's size and its three halvings.

    Args:
        image: (B, 3, H, W) in [0, 1], fp32.
        tensors: with `kwargs_encoder.blocks_<n>.<even index>.<weight or bias>`.
    """
    signals = {}
    x = image * 2 - 1
    for block, strides in enumerate(ENCODER_STRIDES):
        for index, stride in enumerate(strides):
            weight, bias = (tensors[f"{_encoder_conv(block, index)}.{part}"].to(x) for part in ("weight", "bias"))
            x = F.silu(F.conv2d(x, weight, bias, stride=stride, padding=1))
        signals[tuple(x.shape[2:])] = x
    return signals


def check(tensors: Tensors, attentions: Sequence[nn.Module], frames: int, control: bool) -> None:
    """Checks that the tensors are those of a patch of `frames` frames for these attentions.

    Args:
        tensors: a file's tensors.
        attentions: the model's, in the order of ATTENTIONS.
        control: whether there is a control image.

    Raises:
        PatchError: any tensor is missing, superfluous or of another shape; the message names the
            first few and counts the rest.
    """
    expected: dict[str, Shape] = {}
    signal_width = 0
    if control:
        encoder = dict(_encoder_shapes(tensors))
        expected |= encoder
        signal_width = next(reversed(encoder.values()))[0]
    for index, attention in enumerate(attentions):
        expected |= _layer_shapes(tensors, index, attention, frames, signal_width)
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is not expected" for name in tensors if name not in expected]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if faults:
        more = f" (and {len(faults) - NAMED_FAULTS} more)" if len(faults) > NAMED_FAULTS else ""
        raise PatchError(
            f"patch does not fit the model with {frames} frames {'with' if control else 'without'} control: "
            f"{'; '.join(faults[:NAMED_FAULTS])}{more}"
        )


def _layer_shapes(
    tensors: Tensors, index: int, attention: nn.Module, frames: int, signal_width: int
) -> Iterator[tuple[str, Shape]]:
    prefix = _layer(index)
    linears = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    for name, linear in zip(PROJECTIONS, linears, strict=True):
        for frame in range(frames):
            low = f"{prefix}{name}_lora"
            rank = _first_side(tensors, f"{low}.0.down.weight")
            yield f"{low}.{frame}.down.weight", (rank, linear.in_features)
            yield f"{low}.{frame}.up.weight", (linear.out_features, rank)
    width = attention.to_k.out_features
    for name in ("n", *TEMPORAL):
        yield f"{prefix}temporal_{name}.weight", (width,) if name == "n" else (width, width)
        yield f"{prefix}temporal_{name}.bias", (width,)
    for frame in range(frames if signal_width else 0):
        hidden = _first_side(tensors, f"{prefix}control_convs.0.0.weight")
        convs = f"{prefix}control_convs.{frame}"
        yield f"{convs}.0.weight", (hidden, signal_width, 3, 3)
        yield f"{convs}.0.bias", (hidden,)
        yield f"{convs}.2.weight", (width, hidden, 1, 1)
        yield f"{convs}.2.bias", (width,)


def _encoder_shapes(tensors: Tensors) -> Iterator[tuple[str, Shape]]:
    width = 3
    for block, strides in enumerate(ENCODER_STRIDES):
        for index in range(len(strides)):
            name = _encoder_conv(block, index)
            previous, width = width, _first_side(tensors, f"{name}.weight")
            yield f"{name}.weight", (width, previous, 3, 3)
            yield f"{name}.bias", (width,)


def _first_side(tensors: Tensors, name: str) -> int:
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else 0


def _layer(index: int) -> str:
    return f"hookers.layers.{index}."


def _encoder_conv(block: int, index: int) -> str:
    return f"kwargs_encoder.blocks_{block}.{2 * index}"


def _is_plain(base: nn.Module) -> bool:
    return isinstance(base, comfy.ops.CastWeightBiasOp) and not isinstance(base.weight, comfy.ops.QuantizedTensor)


@contextmanager
def _cast(layer: nn.Module, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yields weight and bias on the device and in the dtype of x; use no other cast layer inside the block."""
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    return _set(ops.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta"), weight, bias)


def _conv(weight: torch.Tensor, bias: torch.Tensor, groups: int = 1, padding: int = 0) -> nn.Module:
    out, width, *kernel = weight.shape
    return _set(ops.Conv2d(width * groups, out, kernel, padding=padding, groups=groups, device="meta"), weight, bias)


def _set(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
