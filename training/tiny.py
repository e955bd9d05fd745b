"""The tiny family's modules, as ComfyUI builds them, with new float32 weights that can be trained.

Importing this module imports ComfyUI; `python -m training` has put it on the path.
"""

import math
from typing import TypeVar

import torch
from comfy.taesd.taesd import TAESD, Block
from decoder import TransparentDecoder  # custom_nodes/layerdiffuse_alpha
from family import TinySDXL, TinySDXLClipModel  # custom_nodes/tiny_sdxl
from torch import nn

M = TypeVar("M", bound=nn.Module)
LATENT_SCALE = 0.13025  # SDXL's: the U-Net sees a latent times this, of unit variance
OPPONENT = torch.tensor([[1.3, 1.3, 1.3], [2.6, -2.6, 0.0], [1.5, 1.5, -3.0]])
UNET = {
    **TinySDXL.unet_config,
    "in_channels": 4,
    "out_channels": 4,
    "channel_mult": [1, 1, 2],
    "num_res_blocks": [2, 2, 1],
    "transformer_depth": [0, 0, 1, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 0, 0],
    "num_classes": "sequential",
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "dtype": torch.float32,
}
V_PREDICTION = {"v_pred": torch.zeros(1)}
DECODER_CHANNELS = [16, 16, 24, 32, 32, 32, 32]
DECODER_ATTENTION = [False, False, False, False, True, True, True]


def autoencoder() -> TAESD:
    """Returns a TAESD whose encoder's output is its latents times LATENT_SCALE.

    It starts with useful weights, so that it only needs to learn the rest: three latent channels are the
    average colour of each 8x8 pixels, as brightness and two colour differences.
    """
    module = _trainable(TAESD(), gain=2.0)
    for layer in module.modules():
        if isinstance(layer, Block):
            layer.conv[-1].weight.data.mul_(0.3)[:3] = 0
        elif isinstance(layer, nn.Conv2d) and layer.bias is None:
            _pass_through(layer)
    first, last = module.taesd_encoder[0], module.taesd_encoder[-1]
    _route(first, torch.eye(3), torch.zeros(3))
    _route(last, OPPONENT, -OPPONENT.sum(1) / 2)
    first, last = module.taesd_decoder[1], module.taesd_decoder[-1]
    _route(first, torch.linalg.inv(OPPONENT), torch.full((3,), 0.5))
    last.weight.data.mul_(0.3)
    _route(last, torch.eye(3), torch.zeros(3))
    module.vae_scale.requires_grad_(False).fill_(LATENT_SCALE)
    module.vae_shift.requires_grad_(False).fill_(0.0)
    return module


def _pass_through(layer: nn.Conv2d) -> None:
    """Makes a convolution that halves or doubles the picture pass on the first three channels, the colours."""
    layer.weight.data.mul_(0.7)
    layer.weight.data[:3] = 0
    kernel = torch.zeros(3, 3)
    if layer.stride == (2, 2):
        kernel[1:, 1:] = 1 / 4
    else:
        kernel[1, 1] = 1
    for channel in range(3):
        layer.weight.data[channel, channel] = kernel


def _route(layer: nn.Conv2d, matrix: torch.Tensor, bias: torch.Tensor) -> None:
    """Makes a convolution's first three outputs a matrix of its first three inputs."""
    layer.weight.data[:3] = 0
    layer.weight.data[:3, :3, 1, 1] = matrix
    layer.bias.data[:3] = bias


def base_model() -> nn.Module:
    """Returns ComfyUI's SDXL model class with the tiny U-Net in it, as `diffusion_model`.

    It predicts velocity, like some finetunes of SDXL, whose files have a key for that (V_PREDICTION). A net
    this small that predicts noise does not learn what decides kind and colour: at sigma 8 it knew the noise to
    1 %, and the picture no better than its average.
    """
    config = TinySDXL(dict(UNET))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(V_PREDICTION, device=torch.device("cpu"))
    _trainable(model.diffusion_model)
    zeroed: list[nn.Module] = [model.diffusion_model.out[-1]]
    for name, module in model.diffusion_model.named_modules():
        if name.endswith(("out_layers.3", "proj_out", "to_out.0", "ff.net.2")):
            zeroed.append(module)
    for module in zeroed:  # residual branches start as nothing
        module.weight.data.zero_()
    return model


def text_encoders() -> TinySDXLClipModel:
    """Returns the two CLIP text encoders."""
    encoders = _trainable(TinySDXLClipModel(dtype=torch.float32))
    for module in encoders.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)
    return encoders


def transparent_decoder() -> TransparentDecoder:
    """Returns a decoder that can be trained; it takes latents as the sampler returns them."""
    module = _trainable(TransparentDecoder(DECODER_CHANNELS, DECODER_ATTENTION, blocks=2))
    module.latent_conv_in.weight.data.mul_(LATENT_SCALE)
    return module


def encode_text(encoders: TinySDXLClipModel, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the same as ComfyUI's text encoding, which adds in place and so cannot be trained.

    Args:
        tokens: int64 [2, batch, 77], those of CLIP L and of CLIP G.

    Returns:
        The context of the cross-attention, [batch, 77, 2 * width], and the pooled text, [batch, width].
    """
    hidden, _ = _encode(encoders.clip_l, tokens[0])
    hidden_g, pooled = _encode(encoders.clip_g, tokens[1])
    return torch.cat((hidden, hidden_g), dim=-1), pooled


def _encode(encoder: nn.Module, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = encoder.transformer.text_model
    embeddings = model.embeddings
    x = nn.functional.embedding(tokens, embeddings.token_embedding.weight) + embeddings.position_embedding.weight
    mask = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max, device=x.device).triu_(1)
    penultimate = x
    for layer in model.encoder.layers:
        penultimate = x
        x = x + layer.self_attn(layer.layer_norm1(x), mask, _attention)
        x = x + layer.mlp(layer.layer_norm2(x))
    end = (tokens == model.eos_token_id).int().argmax(dim=-1)
    last = model.final_layer_norm(x)[torch.arange(len(x)), end]
    return penultimate, encoder.transformer.text_projection(last)


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor) -> torch.Tensor:
    q, k, v = (tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (q, k, v))
    attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
    return attended.transpose(1, 2).flatten(2)


def _trainable(module: M, gain: float = 1.0) -> M:
    """Initialises every layer, because ComfyUI's layers leave their weights uninitialised."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=math.sqrt(gain / fan_in))
        elif isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(layer.weight)
        if getattr(layer, "bias", None) is not None and not isinstance(layer, nn.Embedding):
            nn.init.zeros_(layer.bias)
    return module.float().train().requires_grad_(True)
