"""The check of a patch on weights that ComfyUI keeps as quantised tensors."""

import json

import comfy.sd
import folder_paths
import pytest
import torch
from comfy.weight_adapter.lora import LoRAAdapter
from layerdiffuse_alpha import weights
from layerdiffuse_alpha.proof import PatchNotApplied
from loadings import LOADINGS, TINY_PATCH, attention
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("unloaded")


@pytest.mark.parametrize("loading", LOADINGS)
@pytest.mark.parametrize("broken", [False, True])
def test_quantised_weights_are_measured(monkeypatch, sample, measured, tmp_path, loading, broken):
    """With linear weights as ComfyUI's scaled fp8 tensors, which it quantises again after patching."""
    path = tmp_path / "quantised.safetensors"
    tensors = load_file(folder_paths.get_full_path("checkpoints", "tiny_sdxl.safetensors"))
    config = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    names = {f"model.{name.split('::')[0]}" for name in weights.load(TINY_PATCH)}
    for name in names:
        weight = tensors[name].float()
        scale = weight.abs().max() / 448
        tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
        tensors[name.removesuffix("weight") + "weight_scale"] = scale
        tensors[name.removesuffix("weight") + "comfy_quant"] = config.clone()
    save_file(tensors, path)
    loading(monkeypatch)
    model, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=False)
    kinds = {type(value.data).__name__ for name, value in model.model.named_parameters() if f"model.{name}" in names}
    assert kinds == {"QuantizedTensor"}
    if broken:
        monkeypatch.setattr(LoRAAdapter, "calculate_weight", lambda self, weight, *_, **__: weight)
        with pytest.raises(PatchNotApplied):
            sample(attention(model))
    else:
        sample(attention(model))
        assert len(measured) == 3
        assert all(measurement.applied for measurement in measured if measurement.conclusive)
        assert any(measurement.conclusive for measurement in measured)
