"""The check of a patch leaves pictures as they are, runs once, and accuses no one because of another adapter."""

import comfy.hooks
import comfy.model_management
import pytest
import torch
from comfy.weight_adapter.bypass import BypassInjectionManager
from comfy.weight_adapter.lora import LoRAAdapter
from comfy_api.torch_helpers import set_torch_compile_wrapper
from layerdiffuse_alpha import proof, weights
from layerdiffuse_alpha.proof import PatchNotApplied
from loadings import LOADINGS, TINY_PATCH, attention, load

OTHER_STRENGTH = 0.8  # of the other LoRA

pytestmark = pytest.mark.usefixtures("unloaded")


def test_the_pictures_stay_the_same(monkeypatch, sample, measured):
    """Latents are bit for bit those of a sampling that nothing watches."""
    model = load(torch.float32)
    with monkeypatch.context() as without:
        without.setattr(proof.Proof, "attach", lambda *_: None)
        unwatched = attention(model)
    expected = sample(unwatched, steps=3)["samples"]
    assert not measured
    assert torch.equal(sample(attention(model), steps=3)["samples"], expected)
    assert len(measured) == 3


def test_it_is_measured_once_for_a_patched_model_and_its_clones(sample, measured):
    """Further samplings with the model or a clone of it measure nothing, those with another patch do."""
    model = load(torch.float32)
    patched = attention(model)
    sample(patched, steps=2)
    sample(patched)
    sample(patched.clone(), batch=2)
    assert len(measured) == 3
    sample(attention(model, 0.5))
    assert len(measured) == 6


def test_a_clone_is_measured_if_it_samples_first(sample, measured):
    """The check goes with the patch, also if another node has changed the model since."""
    patched = attention(load(torch.float32)).clone()
    patched.set_model_sampler_cfg_function(lambda args: args["cond"])
    sample(patched, batch=2)
    assert len(measured) == 3


def test_a_fault_is_found_again(monkeypatch, sample):
    """A model whose patch is not applied fails each time, not only the first."""
    patched = attention(load(torch.float32))
    with monkeypatch.context() as broken:
        broken.setattr(LoRAAdapter, "calculate_weight", lambda self, weight, *_, **__: weight)
        for _ in range(2):
            with pytest.raises(PatchNotApplied):
                sample(patched)
    comfy.model_management.unload_all_models()
    sample(patched)


def test_weight_zero_is_not_measured(sample, measured, caplog):
    """With weight 0 there is nothing to apply."""
    sample(attention(load(torch.float32), 0.0))
    assert not measured
    assert "layer_model" not in caplog.text


def test_a_sampling_that_was_stopped_does_not_count(monkeypatch, sample, measured):
    """If the sampling ends before the modules ran, the next one is measured, and no hook stays behind."""
    patched = attention(load(torch.float32))
    with monkeypatch.context() as stopped:
        stopped.setattr(type(patched.model), "apply_model", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sample(patched)
    assert not measured
    assert not any(module._forward_hooks for module in patched.model.modules())
    sample(patched)
    assert len(measured) == 3
    assert not any(module._forward_hooks for module in patched.model.modules())


def lora(model, keys, dora=False):
    """Adds a LoRA of about the patch's own size to these keys, as a LoRA loader does."""
    torch.manual_seed(1)
    shapes = {key: value.shape for key, value in model.model.state_dict().items()}
    patches = {}
    for key in keys:
        up, down = torch.randn(shapes[key][0], 4), torch.randn(4, shapes[key][1:].numel())
        scale = torch.ones(shapes[key][0], 1) if dora else None
        adapter = LoRAAdapter(set(), (0.05 * up, 0.3 * down, 4.0, None, scale, None))
        patches[key] = adapter
    patched = model.clone()
    assert len(patched.add_patches(patches, OTHER_STRENGTH)) == len(keys)
    return patched


def patch_keys():
    return sorted({name.split("::")[0] for name in weights.load(TINY_PATCH)})


@pytest.mark.parametrize("loading", LOADINGS)
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("broken", [False, True])
def test_another_lora_on_every_key_is_subtracted(monkeypatch, sample, measured, loading, order, broken):
    """A LoRA such as Lightning's on the same modules neither hides a missing patch nor is taken for one."""
    loading(monkeypatch)
    model = load(torch.float16)
    keys = patch_keys()
    patched = attention(lora(model, keys)) if order == "before" else lora(attention(model), keys)
    if broken:
        for records in patched.patches.values():
            records[:] = [(OTHER_STRENGTH if record[0] == OTHER_STRENGTH else 0.0, *record[1:]) for record in records]
        with pytest.raises(PatchNotApplied):
            sample(patched)
    else:
        sample(patched)
        assert len(measured) == 3
        assert all(measurement.conclusive and measurement.applied for measurement in measured)
        assert all(measurement.noise < 0.01 for measurement in measured)


def test_a_lora_that_wraps_modules_is_no_fault(sample, measured):
    """An adapter in bypass mode adds to what modules return, which does not change the patch's share."""
    patched = attention(load(torch.float16))
    manager = BypassInjectionManager()
    for key, records in lora(load(torch.float16), patch_keys()).patches.items():
        manager.add_adapter(key, records[0][1], OTHER_STRENGTH)
    patched.set_injections("bypass", manager.create_injections(patched.model))
    sample(patched)
    assert len(measured) == 3
    assert all(measurement.applied for measurement in measured if measurement.conclusive)


def test_modules_without_another_lora_are_preferred(sample, measured, compared):
    """With another LoRA on all but two keys, these two are measured."""
    keys = patch_keys()
    sample(lora(attention(load(torch.float32)), keys[:-2]))
    assert sorted(compared) == keys[-2:]
    assert len(measured) == 2


def test_if_nothing_can_be_compared_the_log_says_so(sample, measured, caplog):
    """Adapters that depend on the weight itself (DoRA) on every key: no judgement, one warning."""
    sample(lora(attention(load(torch.float32)), patch_keys(), dora=True))
    assert not measured
    assert f"not verified that ComfyUI applies {TINY_PATCH}" in caplog.text


def test_a_merge_with_another_model_is_not_judged(sample, measured, caplog):
    """ModelMergeSimple scales what was patched before, so that the share says nothing."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    (merged_model,) = ModelMergeSimple().merge(attention(load(torch.float32)), load(torch.float32), 0.5)
    sample(merged_model)
    assert not measured
    assert "not verified" in caplog.text


def test_a_compiled_model_is_measured(sample, measured):
    """With torch.compile the first sampling runs uncompiled, so that the patch can be measured; then it compiles."""
    patched = attention(load(torch.float32))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    set_torch_compile_wrapper(
        model=patched, backend="eager", keys=["diffusion_model.middle_block.1.transformer_blocks.0.attn1"]
    )
    sample(patched)
    assert [measurement.applied for measurement in measured] == [True] * proof.MODULES
    assert not torch._dynamo.utils.counters["stats"]["unique_graphs"]
    sample(patched)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


def test_a_prompt_scheduled_lora_is_left_out(sample, conds, measured, compared):
    """Weights that a hook of the conditioning changes while sampling are not compared; the others are."""
    keys = patch_keys()
    hook = comfy.hooks.WeightHook(strength_model=0.5)
    hook.weights = {key: records[0][1] for key, records in lora(load(torch.float32), keys[:-1]).patches.items()}
    hook.need_weight_init = False
    group = comfy.hooks.HookGroup()
    group.add(hook)
    hooked = comfy.hooks.set_hooks_for_conditioning(conds[0], group)
    sample(attention(load(torch.float32)), hooked, conds[1])
    assert compared == keys[-1:]
    assert [measurement.applied for measurement in measured] == [True]
