"""Writes the trained tiny family as ComfyUI loads it, in half precision: checkpoint, patch file, decoder file."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from training import curves, decoder, layers, low_rank, patch, tiny, transparency, turbo
from training.autoencoder import trained_autoencoder
from training.place import Place

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = "checkpoints/tiny_sdxl.safetensors"
PATCH = "layer_model/tiny_transparent_attn.safetensors"
DECODER = "layer_model/tiny_transparent_decoder.safetensors"
ENCODER = "layer_model/tiny_transparent_encoder.safetensors"
LAYERS = {
    "blended": "layer_model/tiny_bg2ble.safetensors",
    "foreground": "layer_model/tiny_bgble2fg.safetensors",
}
LORA = "loras/tiny_lightning_4step_lora.safetensors"
STAGES = ("autoencoder", "transparency", "diffusion", "decoder", "layers", "turbo")
LOGIT_SCALE = 4.6055  # CLIP's; ComfyUI expects it, nothing here uses it

Tensors = dict[str, torch.Tensor]


def train(place: Place) -> None:
    """Writes the files to `models/`, and the logs of the stages that have run to `training/log/`."""
    base = patch.trained_patched(place)
    decoders = decoder.trained_decoders(place)
    autoencoder = trained_autoencoder(place)
    autoencoder.taesd_decoder = decoders["picture_decoder"]
    write(ROOT / "models" / CHECKPOINT, checkpoint(base, autoencoder))
    write(ROOT / "models" / PATCH, patch_file(base["patch"]))
    write(ROOT / "models" / DECODER, decoders["decoder"].state_dict())
    write(ROOT / "models" / ENCODER, transparency.trained(place)[0].state_dict())
    for name, adapters in layers.trained(place).items():
        write(ROOT / "models" / LAYERS[name], low_rank.patch_file(adapters))
    write(ROOT / "models" / LORA, low_rank.lora_file(turbo.trained(place)))
    logs = ROOT / "training" / "log"
    logs.mkdir(exist_ok=True)
    for stage in STAGES:
        if (place.state / f"{stage}.csv").exists():
            shutil.copyfile(place.state / f"{stage}.csv", logs / f"{stage}.csv")
    curves.draw(sorted(logs.glob("*.csv")), logs / "curves.png")


def checkpoint(base: Mapping[str, nn.Module], autoencoder: nn.Module) -> Tensors:
    """Returns the tensors of a checkpoint, under the names of an SDXL checkpoint."""
    text = {**base["text"].state_dict(), "clip_g.logit_scale": torch.tensor(LOGIT_SCALE)}
    text["clip_l.logit_scale"] = text["clip_g.logit_scale"]
    return {
        **_prefixed("model.diffusion_model.", base["model"].diffusion_model.state_dict()),
        **base["model"].model_config.process_clip_state_dict_for_saving(text),
        **_prefixed("first_stage_model.", autoencoder.state_dict()),
        **tiny.V_PREDICTION,
    }


def patch_file(trained: nn.Module) -> Tensors:
    """Returns the tensors of a patch file: `<model key>::lora::0` is up, `1` is down."""
    tensors = {}
    for key, layer in patch_keys(trained).items():
        tensors[key + "0"], tensors[key + "1"] = layer.up, layer.down
    return tensors


def patch_keys(trained: nn.Module) -> dict[str, nn.Module]:
    """Returns the patch's layers by their keys in a patch file, up to the `0` or `1` at the end."""
    return {f"diffusion_model.{name.replace('/', '.')}.weight::lora::": layer for name, layer in trained.items()}


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes the tensors in half precision, whole or not at all.

    Raises:
        ValueError: a value does not fit half precision.
    """
    halves = {name: tensor.detach().half().cpu().contiguous() for name, tensor in tensors.items()}
    unfit = [name for name, tensor in halves.items() if not tensor.isfinite().all()]
    if unfit:
        raise ValueError(f"{path.name}: not finite in half precision: {', '.join(unfit[:3])}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    safetensors.torch.save_file(halves, part)
    part.chmod(0o644)  # safetensors writes files that only their owner can read
    part.replace(path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}
