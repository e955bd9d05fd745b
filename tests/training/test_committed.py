"""A training can continue from the weights in `models/`."""

import patch as patch_of_nodes
import pytest
import torch
from comfyui_library import ROOT

from training import committed, decoder, export, layers, low_rank, patch, transparency, turbo
from training.autoencoder import trained_autoencoder
from training.loop import start_of
from training.place import Place

MODELS = ROOT / "models"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty state folder into which the committed weights have been unpacked."""
    place = Place(torch.device("cpu"), tmp_path_factory.mktemp("state"), seed=1)
    committed.unpack(place, MODELS)
    return place


def test_every_stage_can_start_from_the_exported_files(place):
    """Each stage's modules, loaded as the next stage loads them, are the tensors of the files."""
    checkpoint = committed.read(MODELS / "checkpoints/tiny_sdxl.safetensors")
    patched = patch.trained_patched(place)
    offsets, first_decoder = transparency.trained(place)
    last = decoder.trained_decoders(place)
    decoder_file = committed.read(MODELS / "layer_model/tiny_transparent_decoder.safetensors")
    pairs = [
        (patched["model"].diffusion_model.state_dict(), committed.part(checkpoint, "model.diffusion_model.")),
        (trained_autoencoder(place).state_dict(), committed.part(checkpoint, "first_stage_model.")),
        (offsets.state_dict(), committed.read(MODELS / "layer_model/tiny_transparent_encoder.safetensors")),
        (first_decoder.state_dict(), decoder_file),
        (last["decoder"].state_dict(), decoder_file),
        (last["picture_decoder"].state_dict(), committed.part(checkpoint, "first_stage_model.taesd_decoder.")),
    ]
    for got, expected in pairs:
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(got[name], tensor), name
    assert all(layer.up.any() for layer in patched["patch"].values())


def test_the_patch_adds_to_the_pictures_that_it_is_switched_on_for(place):
    """For the pictures of a batch without the patch, an attention layer's output is the base's; for the others not."""
    modules = patch.trained_patched(place)
    name = next(iter(modules["patch"]))
    layer = modules["model"].get_submodule("diffusion_model." + name.replace("/", "."))
    inputs = torch.randn(2, 3, layer.in_features)
    base = torch.nn.functional.linear(inputs, layer.weight, layer.bias)
    patched = layer(inputs)
    assert not torch.allclose(patched[0], base[0])
    patch.switch(modules["patch"], torch.tensor([0.0, 1.0]))
    switched = layer(inputs)
    assert torch.equal(switched[0], base[0])
    assert torch.equal(switched[1], patched[1])


def test_a_stage_that_has_a_state_keeps_what_it_started_from(tmp_path):
    """Files that were exported since are unpacked for the other stages only."""
    place = Place(torch.device("cpu"), tmp_path, seed=1)
    committed.unpack(place, MODELS)
    state = place.state / "decoder.pt"
    start_of(state).rename(state)
    start_of(state).write_bytes(b"before")
    start_of(place.state / "turbo.pt").write_bytes(b"before")
    committed.unpack(place, MODELS)
    assert start_of(state).read_bytes() == b"before"
    assert start_of(place.state / "turbo.pt").read_bytes() != b"before"


def test_a_missing_file_is_named(place, tmp_path):
    """Without the weights the error names the file that is missing."""
    with pytest.raises(FileNotFoundError, match="tiny_sdxl"):
        committed.unpack(place, tmp_path)


def test_the_files_of_the_adapters_are_what_is_written_from_them(place):
    """Both patches and the LoRA, read and written again, are the same tensors."""
    adapters = {export.LAYERS[name]: low_rank.patch_file(each) for name, each in layers.trained(place).items()}
    adapters[export.LORA] = low_rank.lora_file(turbo.trained(place))
    for path, written in adapters.items():
        stored = committed.read(MODELS / path)
        assert written.keys() == stored.keys()
        for name, tensor in stored.items():
            assert torch.equal(written[name], tensor), (path, name)


def test_an_adapter_adds_what_its_file_says(place):
    """A layer with the adapter computes what the base does with the weights that ComfyUI makes of the file."""
    modules = layers.adapted(place, "foreground")
    low_rank.load_patch(modules["adapters"], committed.read(MODELS / export.LAYERS["foreground"]))
    base = committed.part(committed.read(MODELS / export.CHECKPOINT), "model.diffusion_model.")
    entries = patch_of_nodes.parse(committed.read(MODELS / export.LAYERS["foreground"]))
    (difference,) = entries[f"diffusion_model.{low_rank.INPUT_CONV}.weight", "diff"]
    first = modules["model"].diffusion_model.get_submodule(low_rank.INPUT_CONV).weight
    padded = torch.nn.functional.pad(base[f"{low_rank.INPUT_CONV}.weight"], (0, 0, 0, 0, 0, 8))
    torch.testing.assert_close(first, padded + difference)
    for name in ("middle_block.1.transformer_blocks.0.attn1.to_q", "output_blocks.0.0.in_layers.2"):
        up, down = entries[f"diffusion_model.{name}.weight", "lora"]
        weight = base[f"{name}.weight"]
        torch.testing.assert_close(
            modules["model"].diffusion_model.get_submodule(name).weight, weight + (up @ down).view_as(weight)
        )
