import io
import struct
from types import SimpleNamespace

import comfy.model_management
import comfy.supported_models
import numpy as np
import pytest
import torch
from layerdiffuse_alpha import nodes, output
from PIL import Image

TINY_DECODER = "tiny_transparent_decoder.safetensors"


@pytest.fixture
def sent(monkeypatch):
    """What the output node hands to ComfyUI's server, as (event, bytes, client)."""
    messages = []
    server = SimpleNamespace(client_id="me", send_sync=lambda *message: messages.append(message))
    monkeypatch.setattr(output.PromptServer, "instance", server, raising=False)
    return messages


@pytest.fixture
def pictures():
    torch.manual_seed(0)
    return torch.rand(3, 64, 128, 3), {"samples": torch.randn(3, 4, 8, 16)}


def test_inputs_and_outputs_are_those_of_the_old_pack():
    """Names, order, options and defaults that workflows in the wild rely on; ours come after, optional."""
    apply = nodes.LayeredDiffusionApply.INPUT_TYPES()
    assert list(apply["required"]) == ["model", "config", "weight"]
    assert apply["required"]["config"][0] == [
        "SDXL, Attention Injection",
        "SDXL, Conv Injection",
        "SD15, Attention Injection, attn_sharing",
    ]
    assert apply["required"]["weight"] == ("FLOAT", {"default": 1.0, "min": -1, "max": 3, "step": 0.05})
    assert list(apply["optional"]) == ["patch_name"]
    assert nodes.LayeredDiffusionApply.RETURN_TYPES == ("MODEL",)
    for node, outputs in (
        (nodes.LayeredDiffusionDecode, ("IMAGE", "MASK")),
        (nodes.LayeredDiffusionDecodeRGBA, ("IMAGE",)),
    ):
        decode = node.INPUT_TYPES()
        assert list(decode["required"]) == ["samples", "images", "sd_version", "sub_batch_size"]
        assert decode["required"]["sd_version"] == (["SD15", "SDXL"], {"default": "SDXL"})
        assert decode["required"]["sub_batch_size"] == ("INT", {"default": 16, "min": 1, "max": 4096, "step": 1})
        assert list(decode["optional"]) == ["decoder_name"]
        assert outputs == node.RETURN_TYPES


def test_decode_gives_colour_and_alpha_and_rgba_joins_them(pictures):
    """LayeredDiffusionDecode gives (B, H, W, 3) and (B, H, W); the RGBA node gives the same four channels."""
    images, samples = pictures
    colour, alpha = nodes.LayeredDiffusionDecode().decode(samples, images, "SDXL", 16, TINY_DECODER)
    (rgba,) = nodes.LayeredDiffusionDecodeRGBA().decode(samples, images, "SDXL", 16, TINY_DECODER)
    assert colour.shape == (3, 64, 128, 3)
    assert alpha.shape == (3, 64, 128)
    assert torch.equal(rgba, torch.cat((colour, alpha[..., None]), dim=-1))
    assert rgba.dtype == torch.float32
    assert rgba.min() >= 0
    assert rgba.max() <= 1


def test_sub_batches_give_what_one_batch_gives(pictures):
    """The sub-batch size changes memory, not the picture."""
    images, samples = pictures
    node = nodes.LayeredDiffusionDecodeRGBA()
    (whole,) = node.decode(samples, images, "SDXL", 16, TINY_DECODER)
    (parts,) = node.decode(samples, images, "SDXL", 2, TINY_DECODER)
    assert (whole - parts).abs().max() <= 1e-3


def test_the_decoder_is_under_comfyuis_model_management(pictures):
    """After decoding, ComfyUI knows the decoder as a loaded model and can unload it."""
    images, samples = pictures
    comfy.model_management.unload_all_models()
    node = nodes.LayeredDiffusionDecodeRGBA()
    node.decode(samples, images, "SDXL", 16, TINY_DECODER)
    (patcher,) = comfy.model_management.loaded_models()
    assert type(patcher.model).__name__ == "TransparentDecoder"
    assert patcher.model_size() > 2_000_000
    assert patcher.model_dtype() == torch.float32
    comfy.model_management.unload_all_models()
    assert comfy.model_management.loaded_models() == []


@pytest.mark.parametrize(
    ("images", "samples", "reason"),
    [
        ((1, 96, 64, 3), (1, 4, 12, 8), "images are 64x96, expected multiples of 64"),
        ((1, 64, 64, 3), (1, 4, 16, 8), r"samples have shape \(1, 4, 16, 8\), expected \(1, 4, 8, 8\)"),
        ((1, 64, 64, 3), (1, 16, 8, 8), r"samples have shape \(1, 16, 8, 8\)"),
        ((2, 64, 64, 3), (1, 4, 8, 8), r"expected \(2, 4, 8, 8\)"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(images, samples, reason):
    """A size that the decoder cannot take is a clear error before it runs."""
    with pytest.raises(ValueError, match=reason):
        nodes.LayeredDiffusionDecodeRGBA().decode(
            {"samples": torch.zeros(samples)}, torch.zeros(images), "SDXL", 16, TINY_DECODER
        )


def test_what_is_not_supported_says_so(model):
    """Options of the old pack that are not there yet, and models of other families, are clear errors."""
    with pytest.raises(ValueError, match="SD15, Attention Injection, attn_sharing' is not supported"):
        nodes.LayeredDiffusionApply().apply(model, "SD15, Attention Injection, attn_sharing", 1.0)
    with pytest.raises(ValueError, match="'SD15' is not supported"):
        nodes.LayeredDiffusionDecode().decode(
            {"samples": torch.zeros(1, 4, 8, 8)}, torch.zeros(1, 64, 64, 3), "SD15", 1
        )
    other = SimpleNamespace(model=SimpleNamespace(model_config=comfy.supported_models.SD15({})))
    with pytest.raises(ValueError, match="needs an SDXL model, got SD15"):
        nodes.LayeredDiffusionApply().apply(other, "SDXL, Attention Injection", 1.0)


def test_output_node_sends_exact_pixels_and_reports_alpha(sent):
    """Each picture is one PNG message of ComfyUI's framing to the client, and one entry of the report."""
    values = torch.arange(64 * 64 * 4).reshape(64, 64, 4) % 256
    rgba = values.float() / 255
    rgba[:16, :, 3], rgba[48:, :, 3] = 0.0, 1.0
    report = nodes.SaveAlphaImageWebsocket().send(torch.stack((rgba, rgba)))["ui"]["alpha"]
    assert len(report) == len(sent) == 2
    event, message, client = sent[0]
    assert (event, client) == (1, "me")
    assert struct.unpack(">I", message[:4]) == (2,)
    decoded = Image.open(io.BytesIO(message[4:]))
    assert decoded.mode == "RGBA"
    assert np.array_equal(np.array(decoded), (rgba * 255).round().byte().numpy())
    alpha = rgba[..., 3]
    assert report[0] == {
        "transparent": pytest.approx((alpha < 0.02).float().mean().item()),
        "opaque": pytest.approx((alpha > 0.98).float().mean().item()),
        "mean": pytest.approx(alpha.mean().item()),
        "width": 64,
        "height": 64,
        "size_bytes": len(message) - 4,
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_output_node_refuses_values_that_are_not_finite(sent, bad):
    """A picture with NaN, as fp16 overflow gives it, is an error and nothing is sent."""
    rgba = torch.zeros(1, 64, 64, 4)
    rgba[0, 3, 3, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        nodes.SaveAlphaImageWebsocket().send(rgba)
    assert sent == []


def test_output_node_refuses_a_picture_without_alpha(sent):
    """An RGB picture is an error: it would be opaque."""
    with pytest.raises(ValueError, match="3 channels, expected 4"):
        nodes.SaveAlphaImageWebsocket().send(torch.zeros(1, 64, 64, 3))
    assert sent == []


def test_output_node_is_never_cached():
    """IS_CHANGED differs from call to call, so that ComfyUI runs the node for an identical graph."""
    assert nodes.SaveAlphaImageWebsocket.IS_CHANGED(images=None) != nodes.SaveAlphaImageWebsocket.IS_CHANGED(
        images=None
    )
