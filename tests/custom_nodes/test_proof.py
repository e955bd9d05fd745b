"""The first sampling of a patched model shows whether ComfyUI applies the patch, however it loads weights."""

import itertools
import logging

import comfy.lora
import comfy.weight_adapter.lora
import pytest
import torch
from layerdiffuse_alpha import nodes, proof, weights
from layerdiffuse_alpha.proof import PatchNotApplied
from loadings import LOADINGS, TINY_PATCH, attention, load
from safetensors.torch import save_file

CONV = "SDXL, Conv Injection"
INPUT_CONV = "diffusion_model.input_blocks.0.0.weight"
CONVS = ("diffusion_model.input_blocks.1.0.in_layers.2", "diffusion_model.middle_block.0.out_layers.3")
SIDE = 8  # of the latents
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]

pytestmark = pytest.mark.usefixtures("unloaded")


def combined(others):
    """Returns every dtype with every loading and one of the others, so that all pairs occur; -m soak runs the rest."""
    everything = itertools.product(*map(enumerate, (DTYPES, LOADINGS, others)))
    return [
        pytest.param(dtype, loading, other, marks=() if (i + j) % len(others) == k else pytest.mark.soak)
        for (i, dtype), (j, loading), (k, other) in everything
    ]


def foreground(model, conds):
    """Returns (model, positive, negative), patched with conv.safetensors and given the latent of a foreground."""
    latent = {"samples": torch.randn(1, 4, SIDE, SIDE)}
    return nodes.LayeredDiffusionCondApply().apply(model, *conds, latent, "SDXL, Foreground", 1.0, "conv.safetensors")


def conv_patch(model, layer_model, widened=False):
    """Saves and applies a patch of convolutions and biases, with or without a wider input convolution."""
    torch.manual_seed(0)
    shapes = {key: value.shape for key, value in model.model.state_dict().items()}
    tensors = {}
    for name in CONVS:
        for part in ("weight", "bias"):
            tensors[f"{name}.{part}::diff::0"] = 0.05 * torch.randn(shapes[f"{name}.{part}"])
    if widened:
        tensors[f"{INPUT_CONV}::diff::0"] = 0.05 * torch.randn(64, 8, 3, 3)
    save_file(tensors, layer_model / "conv.safetensors")


@pytest.mark.parametrize(("dtype", "loading", "strength"), combined([1.0, 0.4, -1.0, 3.0]))
def test_an_applied_patch_is_verified(monkeypatch, sample, measured, caplog, dtype, loading, strength):
    """Three modules return all of the patch's effect, in every dtype, way of loading and strength."""
    caplog.set_level(logging.INFO, proof.NAME)
    loading(monkeypatch)
    sample(attention(load(dtype), strength))
    assert len(measured) == 3
    assert all(measurement.applied for measurement in measured if measurement.conclusive)
    assert any(measurement.conclusive for measurement in measured)
    assert f"{TINY_PATCH} is applied" in caplog.text


@pytest.mark.parametrize("widened", [False, True])
@pytest.mark.parametrize("loading", LOADINGS)
def test_an_applied_conv_patch_is_verified(monkeypatch, sample, conds, measured, layer_model, loading, widened):
    """Differences of convolutions, one of them for more input channels, are measured as well."""
    loading(monkeypatch)
    model = load(torch.float16)
    conv_patch(model, layer_model, widened)
    if not widened:
        (patched,) = nodes.LayeredDiffusionApply().apply(model, CONV, 1.0, "conv.safetensors")
        sample(patched)
    else:
        sample(*foreground(model, conds))
    assert len(measured) == 2 + widened
    assert all(measurement.conclusive and measurement.applied for measurement in measured)


def ignores_adapters(monkeypatch):
    """As ComfyUI does with a patch that it does not know: it logs something, if that."""
    monkeypatch.setattr(
        comfy.weight_adapter.lora.LoRAAdapter, "calculate_weight", lambda self, weight, *_, **__: weight
    )
    monkeypatch.setattr(comfy.lora, "pad_tensor_to_shape", lambda weight, _: weight)
    real = comfy.lora.calculate_weight

    def calculate_weight(patches, *arguments, **more):
        return real([record for record in patches if not isinstance(record[1], tuple)], *arguments, **more)

    monkeypatch.setattr(comfy.lora, "calculate_weight", calculate_weight)


def scales_by(factor):
    def scales(monkeypatch):
        real = comfy.lora.calculate_weight

        def calculate_weight(patches, *arguments, **more):
            return real([(factor * record[0], *record[1:]) for record in patches], *arguments, **more)

        monkeypatch.setattr(comfy.lora, "calculate_weight", calculate_weight)

    return scales


def drops_the_base(monkeypatch):
    real = comfy.lora.calculate_weight

    def calculate_weight(patches, weight, *arguments, **more):
        return real(patches, weight.zero_(), *arguments, **more)

    monkeypatch.setattr(comfy.lora, "calculate_weight", calculate_weight)


FAULTS = [ignores_adapters, scales_by(0.5), scales_by(0.9), scales_by(2), scales_by(-1), drops_the_base]


@pytest.mark.parametrize(("dtype", "loading", "fault"), combined([ignores_adapters, scales_by(0.5), scales_by(2)]))
def test_a_comfyui_that_does_not_apply_the_patch_is_found(monkeypatch, sample, dtype, loading, fault):
    """The sampling fails, and the message names ComfyUI's version, the patch and a key of it."""
    loading(monkeypatch)
    fault(monkeypatch)
    with pytest.raises(PatchNotApplied, match=r"this ComfyUI \(0\.30\.0\) does not apply the patch") as caught:
        sample(attention(load(dtype)))
    assert TINY_PATCH in str(caught.value)
    assert any(name.split("::")[0] in str(caught.value) for name in weights.load(TINY_PATCH))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_kind_of_fault_is_found(monkeypatch, sample, fault):
    """Ignored, too weak, too strong, reversed, without the base: none of them passes in half precision."""
    fault(monkeypatch)
    with pytest.raises(PatchNotApplied):
        sample(attention(load(torch.float16)))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_kind_of_fault_with_differences_is_found(monkeypatch, sample, layer_model, fault):
    """The same faults with a patch of plain differences."""
    fault(monkeypatch)
    model = load(torch.float16)
    conv_patch(model, layer_model)
    with pytest.raises(PatchNotApplied):
        sample(nodes.LayeredDiffusionApply().apply(model, CONV, 1.0, "conv.safetensors")[0])


def drops_the_padding(monkeypatch):
    """A weight that should become larger stays as it is; ComfyUI's own code then only logs the difference."""
    monkeypatch.setattr(comfy.lora, "pad_tensor_to_shape", lambda weight, _: weight)


def pads_in_front(monkeypatch):
    """Zeros come before the weight's own values instead of after them."""

    def pad(weight, shape):
        larger = weight.new_zeros(shape)
        larger[:, shape[1] - weight.shape[1] :] = weight
        return larger

    monkeypatch.setattr(comfy.lora, "pad_tensor_to_shape", pad)


@pytest.mark.parametrize("loading", LOADINGS)
@pytest.mark.parametrize("fault", [drops_the_padding, pads_in_front])
def test_a_widened_convolution_without_its_padding_is_found(monkeypatch, sample, conds, layer_model, loading, fault):
    """The message names the input convolution, not only PyTorch's view of channels."""
    loading(monkeypatch)
    model = load(torch.float16)
    conv_patch(model, layer_model, widened=True)
    patched, *conditioned = foreground(model, conds)
    fault(monkeypatch)
    with pytest.raises(PatchNotApplied, match=rf"does not apply the patch conv.safetensors to {INPUT_CONV}"):
        sample(patched, *conditioned)


def test_a_missing_latent_is_not_taken_for_a_missing_patch(sample, conds, layer_model):
    """If the graph leaves out the conditioning of the node, PyTorch's error stays as it is."""
    model = load(torch.float32)
    conv_patch(model, layer_model, widened=True)
    patched, *_ = foreground(model, conds)
    with pytest.raises(RuntimeError, match="got 4 channels") as caught:
        sample(patched)
    assert not isinstance(caught.value, PatchNotApplied)
