import io
import json
import struct
from dataclasses import asdict
from types import SimpleNamespace

import comfy.cli_args
import comfy.model_management
import comfy.supported_models
import numpy as np
import pytest
import torch
from layerdiffuse_alpha import nodes, output, png
from PIL import Image

TINY_DECODER = "tiny_transparent_decoder.safetensors"


@pytest.fixture
def sent(monkeypatch):
    """The messages that the output node sends to ComfyUI's server, as (event, bytes, client)."""
    messages = []
    server = SimpleNamespace(client_id="me", send_sync=lambda *message: messages.append(message))
    monkeypatch.setattr(output.PromptServer, "instance", server, raising=False)
    return messages


@pytest.fixture
def pictures():
    torch.manual_seed(0)
    return torch.rand(3, 64, 128, 3), {"samples": torch.randn(3, 4, 8, 16)}


def test_inputs_and_outputs_are_those_of_the_old_pack():
    """Names, order, options and defaults are those that existing workflows rely on; ours are optional and last."""
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
        assert list(decode["optional"]) == ["decoder_name", "passes"]
        assert outputs == node.RETURN_TYPES


def test_decode_returns_colour_and_alpha_and_rgba_joins_them(pictures):
    """LayeredDiffusionDecode returns (B, H, W, 3) and (B, H, W); the RGBA node returns the same four channels."""
    images, samples = pictures
    colour, alpha = nodes.LayeredDiffusionDecode().decode(samples, images, "SDXL", 16, TINY_DECODER)
    (rgba,) = nodes.LayeredDiffusionDecodeRGBA().decode(samples, images, "SDXL", 16, TINY_DECODER)
    assert colour.shape == (3, 64, 128, 3)
    assert alpha.shape == (3, 64, 128)
    assert torch.equal(rgba, torch.cat((colour, alpha[..., None]), dim=-1))
    assert rgba.dtype == torch.float32
    assert rgba.min() >= 0
    assert rgba.max() <= 1


def test_sub_batches_equal_one_batch(pictures):
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


@pytest.mark.parametrize(("flag", "dtype"), [("bf16_vae", torch.bfloat16), ("fp32_vae", torch.float32)])
def test_the_decoder_follows_comfyuis_choice_of_dtype(pictures, monkeypatch, flag, dtype):
    """With --bf16-vae the decoder computes in bfloat16; the result has the dtype of the pictures."""
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    images, samples = pictures
    node = nodes.LayeredDiffusionDecodeRGBA()
    (rgba,) = node.decode(samples, images, "SDXL", 16, TINY_DECODER)
    (patcher,) = node._decoders.values()
    assert patcher.model_dtype() == dtype
    assert {parameter.dtype for parameter in patcher.model.parameters()} == {dtype}
    assert rgba.dtype == torch.float32
    monkeypatch.undo()
    (expected,) = nodes.LayeredDiffusionDecodeRGBA().decode(samples, images, "SDXL", 16, TINY_DECODER)
    assert (rgba - expected).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("images", "samples", "reason"),
    [
        ((1, 96, 64, 3), (1, 4, 12, 8), "images are 64x96, expected multiples of 64"),
        ((1, 64, 64, 3), (1, 4, 16, 8), r"samples have shape \(1, 4, 16, 8\), expected \(1, 4, 8, 8\)"),
        ((1, 64, 64, 3), (1, 16, 8, 8), r"samples have shape \(1, 16, 8, 8\)"),
        ((2, 64, 64, 3), (1, 4, 8, 8), r"expected \(2, 4, 8, 8\)"),
    ],
)
def test_sizes_that_do_not_match_are_rejected(images, samples, reason):
    """A size that the decoder does not support is an error before it runs."""
    with pytest.raises(ValueError, match=reason):
        nodes.LayeredDiffusionDecodeRGBA().decode(
            {"samples": torch.zeros(samples)}, torch.zeros(images), "SDXL", 16, TINY_DECODER
        )


def test_models_of_another_family_are_rejected(model):
    """The error names the family that the config needs and the one it got."""
    sd15 = SimpleNamespace(model=SimpleNamespace(model_config=comfy.supported_models.SD15({})))
    with pytest.raises(ValueError, match="needs an SDXL model, got SD15"):
        nodes.LayeredDiffusionApply().apply(sd15, "SDXL, Attention Injection", 1.0)
    with pytest.raises(ValueError, match=r"needs an SD 1\.5 model, got TinySDXL"):
        nodes.LayeredDiffusionApply().apply(model, "SD15, Attention Injection, attn_sharing", 1.0)


def test_output_node_sends_exact_pixels_and_reports_alpha(sent):
    """Each picture is sent to the client as one PNG message in ComfyUI's framing, and has one entry in the report."""
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
    assert report[0] == {
        **asdict(png.alpha_statistics(rgba[None])[0]),
        "width": 64,
        "height": 64,
        "size_bytes": len(message) - 4,
    }


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("disabled", [True, False])
def test_output_node_writes_the_graph_only_if_requested_and_allowed(sent, monkeypatch, metadata, disabled):
    """With `metadata` and without `--disable-metadata`, the chunks are those of SaveImage; otherwise there are none."""
    monkeypatch.setattr(output.args, "disable_metadata", disabled)
    graph = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "ein grüner Apfel 🍏"}}}
    more = {"workflow": {"nodes": [], "title": "林檎"}, "größe": [1, 2.5, None]}
    nodes.SaveAlphaImageWebsocket().send(torch.rand(1, 64, 64, 4), metadata, prompt=graph, extra_pnginfo=more)
    text = Image.open(io.BytesIO(sent[0][1][4:])).text
    if metadata and not disabled:
        assert list(text) == ["prompt", "workflow", "größe"]
        assert {key: json.loads(value) for key, value in text.items()} == {"prompt": graph, **more}
    else:
        assert text == {}


def test_output_node_writes_what_saveimage_writes(sent, monkeypatch, tmp_path):
    """Text chunks and pixels (for values that are multiples of 1/255) equal those of the real SaveImage."""
    import nodes as comfy_nodes

    monkeypatch.setattr(output.args, "disable_metadata", False)
    images = (torch.arange(64 * 64 * 4).reshape(1, 64, 64, 4) % 256 + 0.25) / 255
    hidden = {"prompt": {"1": {"inputs": {"text": "é🍎"}}}, "extra_pnginfo": {"workflow": {"title": "林檎"}}}
    saver = comfy_nodes.SaveImage()
    saver.output_dir = str(tmp_path)
    saver.save_images(images, **hidden)
    (path,) = tmp_path.glob("*.png")
    nodes.SaveAlphaImageWebsocket().send(images, metadata=True, **hidden)
    with Image.open(path) as theirs, Image.open(io.BytesIO(sent[0][1][4:])) as ours:
        assert ours.text == theirs.text
        assert list(ours.text) == ["prompt", "workflow"]
        assert np.array_equal(np.array(ours), np.array(theirs))


def test_output_node_zeroes_hidden_colour_if_requested(sent):
    """Colour under zero alpha is sent unchanged, or black with `zero_hidden_colour`."""
    rgba = torch.full((1, 64, 64, 4), 0.5)
    rgba[..., 3] = 0
    node = nodes.SaveAlphaImageWebsocket()
    reports = [node.send(rgba, zero_hidden_colour=wanted)["ui"]["alpha"][0] for wanted in (False, True)]
    kept, zeroed = (np.array(Image.open(io.BytesIO(message[4:]))) for _, message, _ in sent)
    assert kept[0, 0].tolist() == [128, 128, 128, 0]
    assert zeroed.max() == 0
    assert [report["transparent"] for report in reports] == [1.0, 1.0]


def test_output_nodes_new_inputs_are_optional_and_off():
    """A workflow that sets only `images` is valid; ComfyUI fills in the graph."""
    inputs = nodes.SaveAlphaImageWebsocket.INPUT_TYPES()
    assert list(inputs["required"]) == ["images"]
    assert {name: options["default"] for name, (_, options) in inputs["optional"].items()} == {
        "metadata": False,
        "zero_hidden_colour": False,
        "format": "png",
        "trim": False,
        "padding": 0,
        "background": "transparent",
        "crop_width": 0,
        "crop_height": 0,
    }
    assert inputs["hidden"] == {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_output_node_refuses_values_that_are_not_finite(sent, bad):
    """A picture with NaN, the result of fp16 overflow, is an error, and nothing is sent."""
    rgba = torch.zeros(1, 64, 64, 4)
    rgba[0, 3, 3, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        nodes.SaveAlphaImageWebsocket().send(rgba)
    assert sent == []


def test_output_node_refuses_a_picture_without_alpha(sent):
    """An RGB picture is an error, because it would be opaque."""
    with pytest.raises(ValueError, match="3 channels, expected 4"):
        nodes.SaveAlphaImageWebsocket().send(torch.zeros(1, 64, 64, 3))
    assert sent == []


def test_output_node_is_never_cached():
    """IS_CHANGED differs from call to call, so that ComfyUI runs the node again for an identical graph."""
    assert nodes.SaveAlphaImageWebsocket.IS_CHANGED(images=None) != nodes.SaveAlphaImageWebsocket.IS_CHANGED(
        images=None
    )
