#!/usr/bin/env python3
"""Writes random weights of SDXL's and LayerDiffuse's shapes and names into a models folder.

7.9 GB, always the same, for tests and timings at full size. Random weights prove the plumbing, not the
art: their pictures are abstract. If the files already exist, nothing is done.
"""

import argparse
import hashlib
import json
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEED = 2402_17113

FILES = (
    "checkpoints/sd_xl_base_1.0.safetensors",
    "layer_model/layer_xl_transparent_attn.safetensors",
    "layer_model/vae_transparent_decoder.safetensors",
)

UNET = {  # the widths are those of ComfyUI's class
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [2, 2, 2],
    "num_classes": "sequential",
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "channel_mult": [1, 2, 4],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}
AUTOENCODER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
PATCH_RANK = 256
PATCHED = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
DECODER_CHANNELS = [32, 32, 64, 128, 256, 512, 512]
DECODER_ATTENTION = [False, False, False, False, True, True, True]
OUTPUT_GAINS = [1.5, 0.5, 0.5, 0.5]  # bring most of the alpha and colour of random weights into [0, 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, default=ROOT / ".comfyui" / "app", help="ComfyUI tree")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder to write to")
    options = parser.parse_args()
    record = options.models / "random_sdxl.json"
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if is_current(record, recipe, options.models):
        return 0
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path[:0] = [str(options.comfyui), str(ROOT / "custom_nodes" / "layerdiffuse_alpha")]
    files = {name: write(options.models / name, part) for name, part in zip(FILES, make(), strict=True)}
    replace_with(record, json.dumps({"recipe": recipe, "sha256": files}, indent=2).encode() + b"\n")
    return 0


def is_current(record: Path, recipe: str, models: Path) -> bool:
    try:
        known = json.loads(record.read_bytes())
        return known["recipe"] == recipe and all(
            sha256(models / name) == digest for name, digest in known["sha256"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def make():
    """Yields the tensors of checkpoint, patch and decoder by name, fp16, every value finite."""
    logging.disable(logging.WARNING)  # ComfyUI's warnings about this machine's GPU belong in ComfyUI's log
    import comfy.options

    comfy.options.enable_args_parsing()
    import numpy as np
    import torch
    from decoder import TransparentDecoder  # the module of custom_nodes/layerdiffuse_alpha

    rng = np.random.default_rng(SEED)

    def normal(shape, scale):
        values = rng.standard_normal(tuple(shape), dtype=np.float32)
        return torch.from_numpy(values).mul_(scale).half()

    def value(name, shape):
        """Returns a new value of the parameter: neutral norms and biases, otherwise normal with variance 1 / fan-in."""
        if name.endswith("bias"):
            return torch.zeros(shape, dtype=torch.float16)
        if len(shape) < 2:
            return torch.ones(shape, dtype=torch.float16)
        fan_in = 1 if "embedding" in name else torch.Size(shape[1:]).numel()
        return normal(shape, fan_in**-0.5)

    def randomised(module):
        return {name: value(name, tensor.shape) for name, tensor in module.state_dict().items()}

    def prefixed(prefix, tensors):
        return {prefix + name: tensor for name, tensor in tensors.items()}

    config, text_encoder, autoencoder = modules()
    unet = randomised(config.get_model({}, device=torch.device("meta")).diffusion_model)
    clip = randomised(text_encoder)
    clip["clip_l.logit_scale"] = clip["clip_g.logit_scale"] = torch.tensor(4.6055).half()
    first_stage = randomised(autoencoder)
    yield {
        **prefixed("model.diffusion_model.", unet),
        **config.process_clip_state_dict_for_saving(clip),
        **prefixed("first_stage_model.", first_stage),
    }

    with torch.device("meta"):
        shapes = TransparentDecoder(DECODER_CHANNELS, DECODER_ATTENTION, blocks=2)
    decoder = randomised(shapes)
    decoder["conv_out.weight"] *= torch.tensor(OUTPUT_GAINS).half()[:, None, None, None]
    decoder["conv_out.bias"] += 0.5

    rank = PATCH_RANK
    patch = {}
    for name, tensor in unet.items():
        if name.endswith(PATCHED):
            outputs, inputs = tensor.shape
            key = f"diffusion_model.{name}::lora::"
            patch[key + "0"] = normal((outputs, rank), rank**-0.5)
            patch[key + "1"] = normal((rank, inputs), inputs**-0.5)
    yield patch
    yield decoder


def modules():
    """Returns SDXL's model config, text encoders and autoencoder; their own values do not matter."""
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.sdxl_clip import SDXLClipModel
    from comfy.supported_models import SDXL

    with torch.device("meta"):
        autoencoder = AutoencoderKL(ddconfig=AUTOENCODER, embed_dim=4)
    text_encoder = SDXLClipModel(device="meta", dtype=torch.float16)
    return SDXL({**SDXL.unet_config, **UNET}), text_encoder, autoencoder


def write(path: Path, tensors) -> str:
    import safetensors.torch

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    part.chmod(0o644)  # safetensors writes files that only their owner can read
    part.replace(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return sha256(path)


def replace_with(path: Path, contents: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(contents)
    part.replace(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
