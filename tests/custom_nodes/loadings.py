"""The patched tiny model, in each way in which ComfyUI loads and patches weights."""

from types import SimpleNamespace

import comfy.cli_args
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy_aimdo.host_buffer
import comfy_aimdo.model_vbar
import folder_paths
import torch
from layerdiffuse_alpha import nodes

ATTENTION = "SDXL, Attention Injection"
TINY_PATCH = "tiny_transparent_attn.safetensors"


def load(dtype):
    """Returns the tiny model with its U-Net in this dtype."""
    path = folder_paths.get_full_path("checkpoints", "tiny_sdxl.safetensors")
    options = {} if dtype is torch.float32 else {"dtype": dtype}
    model, *_ = comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False, model_options=options)
    if dtype in (torch.float16, torch.bfloat16):  # computed in it too, as on a GPU
        model.set_model_compute_dtype(dtype)
    assert model.model_dtype() == dtype
    return model


def merged(monkeypatch):
    """Nothing to do: on a CPU every patch is merged when the model is loaded."""


def offloaded(monkeypatch, share=0.0):
    """Has ComfyUI load only this share of a model; patches of the rest are added at each cast."""
    real = comfy.model_management.LoadedModel.model_load

    def model_load(self, lowvram_model_memory=0, **more):
        return real(self, max(share * self.model.model_size(), 0.1), **more)

    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", model_load)


def partly_loaded(monkeypatch):
    offloaded(monkeypatch, 0.5)


def dynamic(monkeypatch):
    """Has ComfyUI use "dynamic VRAM", its choice on NVIDIA GPUs, with this machine's memory for the card's.

    Loading, casting and patching are ComfyUI's own code. Left out are pinned memory, memory on the card to
    keep weights in (`vbar_fault` finds none, as on a full card), and the rule that a CPU is never used so.
    """
    patcher = comfy.model_patcher.ModelPatcherDynamic
    monkeypatch.setattr(patcher, "__new__", lambda cls, *_, **__: object.__new__(cls))
    monkeypatch.setattr(patcher, "partially_unload", lambda self, *_: self.restore_loaded_backups())
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", patcher)
    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", lambda *_: SimpleNamespace(size=0))
    monkeypatch.setattr(comfy.cli_args.args, "disable_pinned_memory", True)
    monkeypatch.setattr(comfy_aimdo.model_vbar, "vbar_fault", lambda _: None)
    monkeypatch.setattr(comfy_aimdo.model_vbar, "vbar_signature_compare", lambda *_: False)
    real = comfy.ops.cast_bias_weight

    def cast_bias_weight(module, given=None, dtype=None, device=None, bias_dtype=None, offloadable=False, **more):
        if getattr(module, "weight_lowvram_function", None) is None:
            return real(module, given, dtype, device, bias_dtype, offloadable, **more)
        dtype, module._v = given.dtype, None
        comfy.ops.cast_modules_with_vbar([module], dtype, given.device, dtype, False)
        weight, bias = comfy.ops.resolve_cast_module_with_vbar(module, dtype, given.device, dtype, None, False)
        module.weight_lowvram_function.clear_prepared()
        del module._prefetch, module._v
        return (weight, bias, None) if offloadable else (weight, bias)

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", cast_bias_weight)


LOADINGS = [merged, offloaded, partly_loaded, dynamic]


def attention(model, strength=1.0):
    """Returns the model with the tiny attention patch."""
    return nodes.LayeredDiffusionApply().apply(model, ATTENTION, strength, TINY_PATCH)[0]
