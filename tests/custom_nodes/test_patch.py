import pytest
import torch
from layerdiffuse_alpha import nodes, patch, weights
from layerdiffuse_alpha.patch import PatchError
from safetensors.torch import save_file

UP, DOWN = torch.ones(6, 2), torch.ones(2, 4)
SHAPES = {"linear": torch.Size((6, 4)), "conv": torch.Size((6, 4, 3, 3)), "bias": torch.Size((6,))}


def test_parse_groups_by_key_and_kind():
    """The indices of a key become a list, up before down, in whatever order the file has them."""
    entries = patch.parse({"a::lora::1": DOWN, "b::diff::0": UP, "a::lora::0": UP})
    assert entries.keys() == {("a", "lora"), ("b", "diff")}
    assert entries["a", "lora"][0] is UP
    assert entries["a", "lora"][1] is DOWN


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.weight"], "a.weight is not"),
        (["a::lora"], "a::lora is not"),
        (["a::lokr::0"], "a::lokr::0 is not"),
        (["a::lora::x"], "a::lora::x is not"),
        (["a::lora::0::1"], "a::lora::0::1 is not"),
        (["a::lora::0"], "a::lora has indices [0], expected [0, 1]"),
        (["a::diff::0", "a::diff::1"], "a::diff has indices [0, 1], expected [0]"),
    ],
)
def test_a_malformed_file_is_rejected(names, reason):
    """The error names a malformed name or a missing index."""
    with pytest.raises(PatchError) as caught:
        patch.parse(dict.fromkeys(names, UP))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "entries",
    [
        {("linear", "lora"): [UP, DOWN]},
        {("conv", "lora"): [torch.ones(6, 2, 1, 1), torch.ones(2, 4, 3, 3)]},
        {("conv", "lora"): [UP, torch.ones(2, 36)]},
        {("linear", "diff"): [torch.ones(6, 4)]},
        {("conv", "diff"): [torch.ones(6, 8, 3, 3)]},
        {("bias", "diff"): [torch.ones(6)]},
    ],
)
def test_a_fitting_patch_is_accepted(entries):
    """Low-rank factors of a matrix or convolution, and differences of the same or a larger shape, fit."""
    patch.check(entries, SHAPES)
    assert patch.to_comfy(entries)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({("other", "diff"): [UP]}, "other is not in the model"),
        ({("linear", "lora"): [torch.ones(5, 2), DOWN]}, "(5, 2) and (2, 4) does not fit the weight of (6, 4)"),
        ({("linear", "lora"): [UP, torch.ones(2, 5)]}, "does not fit"),
        ({("linear", "lora"): [torch.ones(6, 3), DOWN]}, "does not fit"),
        ({("linear", "lora"): [torch.ones(6), torch.ones(6)]}, "does not fit"),
        ({("linear", "lora"): [torch.ones(()), torch.ones(())]}, "does not fit"),
        ({("linear", "lora"): [UP, torch.ones(2)]}, "does not fit"),
        ({("linear", "diff"): [torch.ones(6, 3)]}, "does not fit"),
        ({("linear", "diff"): [torch.ones(6)]}, "does not fit"),
        ({("bias", "diff"): [torch.ones(6, 1)]}, "does not fit"),
    ],
)
def test_a_patch_that_does_not_fit_is_rejected(entries, reason):
    """ComfyUI would only log these and continue without them; here they are errors that name the key."""
    with pytest.raises(PatchError) as caught:
        patch.check(entries, SHAPES)
    assert reason in str(caught.value)


def test_many_faults_are_counted():
    """The error about a patch for another model names some keys and counts all."""
    with pytest.raises(PatchError, match=r"100 of 100 entries.*\(and 97 more\)"):
        patch.check({(f"key{n}", "diff"): [UP] for n in range(100)}, SHAPES)


@pytest.mark.parametrize("change", ["missing key", "wrong shape"])
def test_one_wrong_key_of_a_real_patch_stops_the_node(model, layer_model, change):
    """LayeredDiffusionApply rejects a patch if a single entry does not fit, and names it."""
    tensors = weights.load("tiny_transparent_attn.safetensors")
    name = next(iter(tensors))
    if change == "missing key":
        for index in "01":
            tensors["diffusion_model.absent.weight::lora::" + index] = tensors.pop(name[:-1] + index)
        named = "diffusion_model.absent.weight is not in the model"
    else:
        tensors[name] = torch.ones(3, 3)
        named = name.split("::")[0] + ": lora of"
    save_file(tensors, layer_model / "wrong.safetensors")
    with pytest.raises(PatchError) as caught:
        nodes.LayeredDiffusionApply().apply(model, "SDXL, Attention Injection", 1.0, "wrong.safetensors")
    assert "1 of 56 entries" in str(caught.value)
    assert named in str(caught.value)


def test_a_missing_file_is_named(model):
    """If the config's file is missing, the error has its name, without a folder."""
    with pytest.raises(FileNotFoundError) as caught:
        nodes.LayeredDiffusionApply().apply(model, "SDXL, Conv Injection", 1.0)
    assert str(caught.value) == "models/layer_model/layer_xl_transparent_conv.safetensors does not exist"


@pytest.mark.parametrize("contents", [b"", b"\x10\0\0\0\0\0\0\0{", b"not weights at all", b"\xff" * 64])
def test_a_damaged_file_is_named(layer_model, contents):
    """An incomplete file, or one of another kind, is an error with its name."""
    (layer_model / "half.safetensors").write_bytes(contents)
    with pytest.raises(ValueError, match=r"half\.safetensors"):
        weights.load("half.safetensors")


def test_a_file_without_tensors_is_rejected(layer_model):
    """An empty patch is an error."""
    save_file({}, layer_model / "empty.safetensors")
    with pytest.raises(ValueError, match="has no tensors"):
        weights.load("empty.safetensors")
