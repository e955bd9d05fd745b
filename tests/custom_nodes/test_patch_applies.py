"""The most important regression test: on current ComfyUI the patch really changes the model.

The old node pack handed over `("lora", [up, down])` tuples, which ComfyUI since 0.3.30 logs and
ignores: the job succeeds and the picture is opaque.
"""

from pathlib import Path

import comfy.model_management
import pytest
import torch
from layerdiffuse_alpha import nodes, patch, weights
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
ATTENTION = "SDXL, Attention Injection"
CONV = "SDXL, Conv Injection"
TINY_PATCH = "tiny_transparent_attn.safetensors"
CONV_KEYS = (
    "diffusion_model.input_blocks.1.0.in_layers.2.weight",
    "diffusion_model.input_blocks.1.0.in_layers.2.bias",
    "diffusion_model.middle_block.0.out_layers.3.weight",
)
INPUT_CONV = "diffusion_model.input_blocks.0.0.weight"


def weights_in_use(model) -> dict[str, torch.Tensor]:
    """Returns the weights as the sampler sees them: loaded by ComfyUI, with patches applied."""
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    values = {key: value.detach().float().clone() for key, value in model.model.state_dict().items()}
    comfy.model_management.unload_all_models()
    return values


def assert_weights(base, patched, differences, strength=1.0) -> None:
    """Asserts that exactly the weights named in `differences` differ, each by its difference."""
    for key, before in base.items():
        expected = before
        if key in differences:
            difference = differences[key].float()
            assert difference.abs().max() > 1e-3, "a difference that cannot be seen proves nothing"
            expected = torch.zeros_like(difference)
            expected[tuple(map(slice, before.shape))] = before
            expected += strength * difference
        assert patched[key].shape == expected.shape, key
        assert (patched[key] - expected).abs().max() <= 1e-5, key


def low_rank_differences(tensors) -> dict[str, torch.Tensor]:
    keys = {name.split("::")[0] for name in tensors}
    return {key: tensors[f"{key}::lora::0"].float() @ tensors[f"{key}::lora::1"].float() for key in keys}


@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_attention_patch_adds_up_times_down(model, strength):
    """Every weight that the attention patch names equals base + strength x up @ down, all others the base."""
    base = weights_in_use(model)
    (patched,) = nodes.LayeredDiffusionApply().apply(model, ATTENTION, strength, TINY_PATCH)
    differences = low_rank_differences(weights.load(TINY_PATCH))
    assert len(differences) == 56
    assert_weights(base, weights_in_use(patched), differences, strength)
    assert_weights(base, weights_in_use(model), {})


def test_conv_patch_adds_the_padded_difference(model, layer_model):
    """Every weight that a conv patch names equals base, padded to the difference's shape, + difference."""
    torch.manual_seed(0)
    base = weights_in_use(model)
    differences = {key: torch.randn(base[key].shape) for key in CONV_KEYS}
    differences[INPUT_CONV] = torch.randn(64, 8, 3, 3)
    save_file({f"{key}::diff::0": value for key, value in differences.items()}, layer_model / "conv.safetensors")
    (patched,) = nodes.LayeredDiffusionApply().apply(model, CONV, 1.0, "conv.safetensors")
    assert_weights(base, weights_in_use(patched), differences)


def test_both_kinds_on_one_weight_add_up(model, layer_model):
    """A low-rank and a plain difference of the same weight are both applied."""
    torch.manual_seed(0)
    tensors = weights.load(TINY_PATCH)
    key = next(iter(tensors)).split("::")[0]
    base = weights_in_use(model)
    both = {
        f"{key}::lora::0": tensors[f"{key}::lora::0"],
        f"{key}::lora::1": tensors[f"{key}::lora::1"],
        f"{key}::diff::0": torch.randn(base[key].shape),
    }
    save_file(both, layer_model / "both.safetensors")
    (patched,) = nodes.LayeredDiffusionApply().apply(model, ATTENTION, 1.0, "both.safetensors")
    expected = {key: low_rank_differences({f"{key}::lora::0": 0} and both)[key] + both[f"{key}::diff::0"]}
    assert_weights(base, weights_in_use(patched), expected)


def test_the_old_packs_tuples_would_be_detected(model, monkeypatch):
    """With patches in the old form, raw tuples, the weights do not change, and the assertion above fails."""

    def raw_tuples(entries):
        return [{key: (kind, parts + [None] * 14) for (key, kind), parts in entries.items()}]

    monkeypatch.setattr(patch, "to_comfy", raw_tuples)
    base = weights_in_use(model)
    (patched,) = nodes.LayeredDiffusionApply().apply(model, ATTENTION, 1.0, TINY_PATCH)
    found = weights_in_use(patched)
    assert_weights(base, found, {})
    with pytest.raises(AssertionError):
        assert_weights(base, found, low_rank_differences(weights.load(TINY_PATCH)))


def test_a_merged_checkpoint_is_not_patched_again(checkpoint, merge, tmp_path, monkeypatch):
    """If the checkpoint contains the patch, weight 1 is an error and weight 0 is the merged model."""
    import folder_paths
    import nodes as comfy_nodes

    status, output = merge()
    assert status == 0
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"}))
    merged, _, _ = comfy_nodes.CheckpointLoaderSimple().load_checkpoint(output.name)
    with pytest.raises(ValueError, match=rf"already has {TINY_PATCH} in its weights"):
        nodes.LayeredDiffusionApply().apply(merged, ATTENTION, 1.0, TINY_PATCH)
    (unpatched,) = nodes.LayeredDiffusionApply().apply(merged, ATTENTION, 0.0, "absent.safetensors")
    (patched,) = nodes.LayeredDiffusionApply().apply(checkpoint[0], ATTENTION, 1.0, TINY_PATCH)
    expected = weights_in_use(patched)
    for key, value in weights_in_use(unpatched).items():
        assert (value - expected[key]).abs().max() <= 2**-10 * expected[key].abs().max() + 1e-6, key
