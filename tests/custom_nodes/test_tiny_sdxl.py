from pathlib import Path

import comfy.supported_models
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
FILES = (
    "checkpoints/tiny_sdxl.safetensors",
    "layer_model/tiny_transparent_attn.safetensors",
    "layer_model/tiny_transparent_decoder.safetensors",
    "layer_model/tiny_transparent_encoder.safetensors",
)


def test_stock_loader_takes_it_for_sdxl(checkpoint):
    """CheckpointLoaderSimple detects the tiny family; it counts as SDXL and has SDXL's parts."""
    model, clip, vae = checkpoint
    config = model.model.model_config
    assert type(config).__name__ == "TinySDXL"
    assert isinstance(config, comfy.supported_models.SDXL)
    assert type(vae.first_stage_model).__name__ == "TAESD"
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize("a (red:1.3) apple"))
    ((context, extra),) = conditioning
    assert context.shape == (1, 77, 64)
    assert extra["pooled_output"].shape == (1, 32)
    assert context.isfinite().all()


def test_registering_again_changes_nothing():
    """The family is in ComfyUI's list once, after all others, and SDXL is still detected as SDXL."""
    names = [config.__name__ for config in comfy.supported_models.models]
    assert names.count("TinySDXL") == 1
    assert names[-1] == "TinySDXL"


def test_weights_are_small_and_finite():
    """The files have at most 24 MB in total, and no value is NaN or infinite."""
    paths = [ROOT / "models" / name for name in FILES]
    assert sum(path.stat().st_size for path in paths) <= 24_000_000
    assert all(tensor.isfinite().all() for path in paths for tensor in load_file(path).values())


@pytest.mark.parametrize("file", FILES)
def test_weights_are_fp16(file):
    """All weights are half precision; CLIP's position ids are integers, as in SDXL's file."""
    tensors = load_file(ROOT / "models" / file)
    others = {name for name, tensor in tensors.items() if tensor.dtype != torch.float16}
    assert all(name.endswith("position_ids") for name in others)
