"""The weights in `models/`, as the start of each stage."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from training import diffusion, export, layers, low_rank, patch, tiny, turbo
from training.loop import save_start
from training.place import Place
from training.transparency import OffsetEncoder

Tensors = dict[str, torch.Tensor]


def unpack(place: Place, models: Path) -> None:
    """Writes `<stage>.start.pt` from the exported files, for all stages that have no state.

    A stage that has one keeps what it started from, also if `models` has been exported since.

    Raises:
        FileNotFoundError: a file is missing in `models`.
        RuntimeError: the tensors do not fit the modules.
    """
    tensors = read(models / export.CHECKPOINT)
    autoencoder, offsets, decoder = tiny.autoencoder(), OffsetEncoder(), tiny.transparent_decoder()
    autoencoder.load_state_dict(part(tensors, "first_stage_model."))
    offsets.load_state_dict(read(models / export.ENCODER))
    decoder.load_state_dict(read(models / export.DECODER))
    modules, attention = base(models)
    starts: dict[str, dict[str, nn.Module]] = {
        "autoencoder": {"autoencoder": autoencoder},
        "transparency": {"encoder": offsets, "decoder": decoder},
        "diffusion": diffusion.parts(modules, attention),
        "decoder": {"decoder": decoder, "picture_decoder": autoencoder.taesd_decoder},
        "layers": {
            name: low_rank.load_patch(
                low_rank.attach(tiny.base_model(), layers.RANK, count * layers.CHANNELS),
                read(models / export.LAYERS[name]),
            )
            for name, count in layers.GIVEN.items()
        },
        "turbo": {
            "lora": low_rank.load_lora(low_rank.attach(tiny.base_model(), turbo.RANK), read(models / export.LORA))
        },
    }
    for stage, trained in starts.items():
        state = place.state / f"{stage}.pt"
        if not state.exists():
            save_start(state, trained)


def base(models: Path) -> tuple[dict[str, nn.Module], nn.ModuleDict]:
    """Returns the base, as `unet.base` does, and the patch that is attached to it."""
    tensors = read(models / export.CHECKPOINT)
    modules: dict[str, nn.Module] = {"model": tiny.base_model(), "text": tiny.text_encoders()}
    modules["model"].diffusion_model.load_state_dict(part(tensors, "model.diffusion_model."))
    text = modules["model"].model_config.process_clip_state_dict(tensors)
    # The file has CLIP's position_ids, which are not weights, and lacks a projection that nothing uses.
    modules["text"].load_state_dict(text, strict=False)
    attention = patch.attach(modules["model"])
    saved = read(models / export.PATCH)
    for key, layer in export.patch_keys(attention).items():
        layer.up.data.copy_(saved[key + "0"])
        layer.down.data.copy_(saved[key + "1"])
    return modules, attention


def read(path: Path) -> Tensors:
    """Returns the tensors of a file as float32."""
    return {name: tensor.float() for name, tensor in safetensors.torch.load_file(path).items()}


def part(tensors: Tensors, prefix: str) -> Tensors:
    """Returns the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
