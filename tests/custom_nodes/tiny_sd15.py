"""A tiny U-Net of SD 1.5's shape and attention sharing patches for it, the same numbers on every machine."""

import functools
import zlib

import comfy.model_patcher
import comfy.supported_models
import numpy as np
import torch
from layerdiffuse_alpha.attention_sharing import ATTENTIONS

CONTEXT_WIDTH = 16
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": CONTEXT_WIDTH,
    "adm_in_channels": None,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "legacy": False,
}
ENCODER_WIDTHS = ((32, 32, 64, 64, 128, 128, 256, 256), (256, 256), (256, 256), (256, 256))
NARROW_ENCODER = ((4, 4, 4, 4, 6, 6, 8, 8), (8, 8), (8, 8), (8, 8))


def numbers(name: str, *shape: int) -> torch.Tensor:
    """Returns normally distributed numbers that depend on name and shape alone (NumPy's frozen generator)."""
    seed = zlib.crc32(name.encode())
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


@functools.lru_cache(maxsize=4096)
def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns numbers scaled so that activations stay near one."""
    if len(shape) == 1:
        return numbers(name, *shape) * 0.1 + (1.0 if name.endswith("weight") else 0.0)
    return numbers(name, *shape) / np.sqrt(np.prod(shape[1:]))


def make_model(dtype=torch.float32, compute_dtype=None) -> comfy.model_patcher.ModelPatcher:
    """Returns the model with weights in `dtype`, computed in `compute_dtype` if it is given."""
    config = comfy.supported_models.SD15(dict(UNET))
    config.set_inference_dtype(dtype, compute_dtype)
    model = config.get_model({}, "model.diffusion_model.", device="cpu")
    values = {name: weight(name, value.shape) for name, value in model.diffusion_model.state_dict().items()}
    model.diffusion_model.load_state_dict(values)
    model.diffusion_model.eval()
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def patch_tensors(
    model: comfy.model_patcher.ModelPatcher, frames: int, control=False, rank=4, encoder=ENCODER_WIDTHS
) -> dict[str, torch.Tensor]:
    """Returns the tensors of a patch file for the model."""
    shapes: dict[str, tuple[int, ...]] = {}
    width = 3
    for block, widths in enumerate(encoder if control else ()):
        for index, out in enumerate(widths):
            shapes[f"kwargs_encoder.blocks_{block}.{2 * index}.weight"] = (out, width, 3, 3)
            shapes[f"kwargs_encoder.blocks_{block}.{2 * index}.bias"] = (out,)
            width = out
    for index, key in enumerate(ATTENTIONS):
        attention = model.get_model_object(key)
        prefix = f"hookers.layers.{index}"
        inner = attention.to_k.out_features
        linears = {name: getattr(attention, name) for name in ("to_q", "to_k", "to_v")}
        linears["to_out"] = attention.to_out[0]
        for frame in range(frames):
            for name, linear in linears.items():
                shapes[f"{prefix}.{name}_lora.{frame}.down.weight"] = (rank, linear.in_features)
                shapes[f"{prefix}.{name}_lora.{frame}.up.weight"] = (linear.out_features, rank)
            if control:
                convs = f"{prefix}.control_convs.{frame}"
                shapes |= {f"{convs}.0.weight": (width, width, 3, 3), f"{convs}.0.bias": (width,)}
                shapes |= {f"{convs}.2.weight": (inner, width, 1, 1), f"{convs}.2.bias": (inner,)}
        for name in "inqkvo":
            shapes[f"{prefix}.temporal_{name}.weight"] = (inner,) if name == "n" else (inner, inner)
            shapes[f"{prefix}.temporal_{name}.bias"] = (inner,)
    return {name: weight(name, shape) for name, shape in shapes.items()}
