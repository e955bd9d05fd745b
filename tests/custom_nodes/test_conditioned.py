"""The nodes whose model sees additional latents: fg/bg -> blended, blended + fg/bg -> the other."""

import nodes as comfy_nodes
import pytest
import torch
from layerdiffuse_alpha import nodes
from layerdiffuse_alpha.patch import PatchError
from safetensors.torch import save_file
from test_patch_applies import INPUT_CONV, assert_weights, weights_in_use

SCALE = 0.13025  # SDXL's latent format
CASES = [
    (nodes.LayeredDiffusionCondApply, ("latent",), 8),
    (nodes.LayeredDiffusionDiffApply, ("blended_latent", "latent"), 12),
]


@pytest.fixture
def conditionings(checkpoint):
    _, clip, _ = checkpoint
    return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("an apple", "ugly")]


@pytest.fixture
def write_patch(layer_model):
    """Writes a patch that widens the input convolution to `channels`, the new ones with this strength."""

    def write(channels, strength=0.2):
        torch.manual_seed(1)
        difference = torch.zeros(64, channels, 3, 3)
        difference[:, 4:] = strength * torch.randn(64, channels - 4, 3, 3)
        save_file({f"{INPUT_CONV}::diff::0": difference}, layer_model / "wide.safetensors")
        return difference

    return write


def latents(names, seed=0, size=(1, 4, 8, 8)):
    torch.manual_seed(seed)
    return {name: {"samples": torch.randn(size)} for name in names}


def sample(model, positive, negative):
    noise = {"samples": torch.zeros(1, 4, 8, 8)}
    (result,) = comfy_nodes.common_ksampler(model, 5, 2, 4.0, "euler", "normal", positive, negative, noise)
    return result["samples"]


@pytest.mark.parametrize(
    ("node", "inputs", "options"),
    [
        (
            nodes.LayeredDiffusionCondApply,
            ["model", "cond", "uncond", "latent", "config", "weight"],
            ["SDXL, Foreground", "SDXL, Background"],
        ),
        (
            nodes.LayeredDiffusionDiffApply,
            ["model", "cond", "uncond", "blended_latent", "latent", "config", "weight"],
            ["SDXL, Foreground", "SDXL, Background"],
        ),
    ],
)
def test_inputs_and_outputs_are_those_of_the_old_pack(node, inputs, options):
    """Names, order and options are those that existing workflows rely on; ours are optional and come last."""
    found = node.INPUT_TYPES()
    assert list(found["required"]) == inputs
    assert found["required"]["config"] == (options,)
    assert list(found["optional"]) == ["patch_name"]
    assert node.RETURN_TYPES == ("MODEL", "CONDITIONING", "CONDITIONING")


@pytest.mark.parametrize(
    ("node", "config", "file"),
    [
        (nodes.LayeredDiffusionCondApply, "SDXL, Foreground", "layer_xl_fg2ble"),
        (nodes.LayeredDiffusionCondApply, "SDXL, Background", "layer_xl_bg2ble"),
        (nodes.LayeredDiffusionDiffApply, "SDXL, Foreground", "layer_xl_fgble2bg"),
        (nodes.LayeredDiffusionDiffApply, "SDXL, Background", "layer_xl_bgble2fg"),
    ],
)
def test_each_config_has_its_published_file(model, conditionings, node, config, file):
    """The file of a config is found by its published name."""
    given = latents([name for name in node.INPUT_TYPES()["required"] if name.endswith("latent")])
    with pytest.raises(FileNotFoundError, match=rf"layer_model/{file}\.safetensors does not exist"):
        node().apply(model, *conditionings, **given, config=config, weight=1.0)


@pytest.mark.parametrize(("node", "names", "channels"), CASES)
def test_the_model_gets_the_given_latents(model, conditionings, write_patch, node, names, channels):
    """The input convolution is widened, the conditioning has the scaled latents, and the inputs are unchanged."""
    base = weights_in_use(model)
    difference = write_patch(channels)
    given = latents(names)
    patched, positive, negative = node().apply(
        model, *conditionings, **given, config="SDXL, Foreground", weight=1.0, patch_name="wide.safetensors"
    )
    assert_weights(base, weights_in_use(patched), {INPUT_CONV: difference})
    expected = torch.cat([SCALE * given[name]["samples"] for name in reversed(names)], dim=1)
    for conditioning, old in zip((positive, negative), conditionings, strict=True):
        ((context, extra),) = conditioning
        assert torch.equal(extra["model_conds"]["c_concat"].cond, expected)
        assert torch.equal(context, old[0][0])
        assert "model_conds" not in old[0][1]


@pytest.mark.parametrize(("node", "names", "channels"), CASES)
def test_sampling_sees_the_latents(model, conditionings, write_patch, node, names, channels):
    """The sampled picture depends on the given latents; if their weights are zero, it is the plain one."""

    def run(strength, seed):
        write_patch(channels, strength)
        given = latents(names, seed)
        return sample(
            *node().apply(
                model, *conditionings, **given, config="SDXL, Background", weight=1.0, patch_name="wide.safetensors"
            )
        )

    plain = sample(model, *conditionings)
    assert (run(0.0, 1) - plain).abs().max() <= 1e-5
    assert (run(0.2, 1) - plain).abs().max() > 1e-3
    assert (run(0.2, 1) - run(0.2, 2)).abs().max() > 1e-3


@pytest.mark.parametrize(("node", "names", "channels"), CASES)
def test_the_patch_of_another_node_is_rejected(model, conditionings, write_patch, node, names, channels):
    """A patch for another number of input channels is an error here, not a crash in the sampler."""
    write_patch(20 - channels)
    with pytest.raises(PatchError, match=f"for {20 - channels} input channels, expected {channels}"):
        node().apply(
            model,
            *conditionings,
            **latents(names),
            config="SDXL, Foreground",
            weight=1.0,
            patch_name="wide.safetensors",
        )


def test_latents_that_do_not_match_are_rejected(model, conditionings):
    """Latents of different sizes, or with another family's channels, are an error."""
    node = nodes.LayeredDiffusionDiffApply()
    given = latents(["blended_latent"]) | latents(["latent"], size=(1, 4, 8, 16))
    with pytest.raises(ValueError, match=r"shapes \[\(1, 4, 8, 8\), \(1, 4, 8, 16\)\]"):
        node.apply(model, *conditionings, **given, config="SDXL, Foreground", weight=1.0)
    with pytest.raises(ValueError, match=r"expected one of 4 channels"):
        nodes.LayeredDiffusionCondApply().apply(
            model, *conditionings, **latents(["latent"], size=(1, 16, 8, 8)), config="SDXL, Foreground", weight=1.0
        )


def test_another_branch_of_the_graph_does_not_matter(model, conditionings, write_patch):
    """A model that is still loaded in the widened form of one branch is checked in its base form for another patch."""
    arguments = {"config": "SDXL, Foreground", "weight": 1.0, "patch_name": "wide.safetensors"}
    write_patch(12)
    both = latents(["blended_latent", "latent"])
    sample(*nodes.LayeredDiffusionDiffApply().apply(model, *conditionings, **both, **arguments))
    assert model.model.state_dict()[INPUT_CONV].shape[1] == 12
    write_patch(8)
    sample(*nodes.LayeredDiffusionCondApply().apply(model, *conditionings, **latents(["latent"]), **arguments))
    assert model.model.state_dict()[INPUT_CONV].shape[1] == 8
