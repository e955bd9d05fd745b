from pathlib import Path

import pytest
import torch
from layerdiffuse_alpha import views
from layerdiffuse_alpha.decoder import TransparentDecoder
from safetensors.torch import load_file

# Inputs, weights and outputs as numbers, recorded from huchenlei/ComfyUI-layerdiffuse 1.0.4
# (UNet1024 of eight channels a level, random weights; decode_pixel) with diffusers 0.35, fp32, CPU.
REFERENCE = Path(__file__).with_name("decoder_reference.safetensors")


@pytest.fixture(scope="module")
def reference():
    return {name: tensor.float() for name, tensor in load_file(REFERENCE).items()}


@pytest.fixture(scope="module")
def decoder(reference):
    return TransparentDecoder.from_weights(
        {name.removeprefix("weights."): value for name, value in reference.items() if name.startswith("weights.")}
    )


def decode_eight_views(decoder, pixels, latent, at_once=1):
    return views.decode(decoder, pixels, latent, passes=8, at_once=at_once)


def test_one_view_equals_the_reference(decoder, reference):
    """The U-Net's output equals the recorded one to 1e-5."""
    found = decoder(reference["pixels"], reference["latent"])
    assert (found - reference["one_view"]).abs().max() <= 1e-5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("at_once", [1, 8])
def test_eight_views_equal_the_reference(decoder, reference, at_once, layout):
    """The vote of eight views equals the recorded output to 1e-5, for a non-square picture and any memory layout."""
    found = decode_eight_views(
        decoder.to(memory_format=layout),
        reference["pixels"],
        reference["latent"].contiguous(memory_format=layout),
        at_once,
    )
    assert found.shape == (1, 4, 128, 64)
    assert (found - reference["eight_views"]).abs().max() <= 1e-5


def test_eight_views_treat_all_directions_alike(decoder, reference):
    """Decoding a turned and mirrored picture equals the turned and mirrored decoding."""

    def turned(x):
        return torch.rot90(x.flip(3), 1, (2, 3))

    straight = decode_eight_views(decoder, reference["pixels"], reference["latent"])
    found = decode_eight_views(decoder, turned(reference["pixels"]), turned(reference["latent"]))
    assert (found - turned(straight)).abs().max() <= 1e-5


def test_widths_come_from_the_weights(decoder):
    """A decoder of any width, including the published one, loads from its weights alone."""
    full = TransparentDecoder([32, 32, 64, 128, 256, 512, 512], [False] * 4 + [True] * 3, blocks=2)
    assert sum(parameter.numel() for parameter in full.parameters()) == 104_104_804
    narrow = TransparentDecoder([8, 16, 24, 32], [False, False, True, True], blocks=1)
    for name, parameter in narrow.state_dict().items():
        torch.nn.init.normal_(parameter) if "weight" in name else torch.nn.init.zeros_(parameter)
    again = TransparentDecoder.from_weights(narrow.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in narrow.state_dict().items())


@pytest.mark.parametrize("change", ["nothing there", "one missing", "one more", "one of another shape"])
def test_other_weights_are_rejected(decoder, change):
    """Weights that are not a complete transparent decoder are an error."""
    tensors = {} if change == "nothing there" else dict(decoder.state_dict())
    if change == "one missing":
        del tensors["mid_block.attentions.0.to_q.weight"]
    if change == "one more":
        tensors["down_blocks.0.resnets.0.extra"] = torch.ones(1)
    if change == "one of another shape":
        tensors["conv_out.weight"] = torch.ones(3, 8, 3, 3)
    with pytest.raises(ValueError, match="not the weights of a transparent decoder"):
        TransparentDecoder.from_weights(tensors)
