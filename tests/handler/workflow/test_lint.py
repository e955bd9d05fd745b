"""Graphs as people edit them in ComfyUI's GUI and export them: which of them can be transparent."""

import copy

import pytest

from handler.job import stored_workflows
from handler.settings import Settings
from handler.workflow.lint import findings

OUTPUT = "9"


def node(title, class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


def facts(graph, merged=False, output=OUTPUT):
    return [str(finding) for finding in findings(graph, output, merged)]


@pytest.fixture
def graph(files):
    return copy.deepcopy(files[0])


def test_the_stored_graph_can_be_transparent(graph):
    """As it ships, with an ordinary checkpoint; if the checkpoint is missing, too."""
    assert facts(graph, merged=False) == facts(graph, merged=None) == []


def lora(graph):
    graph["10"] = node("Style", "LoraLoader", model=["1", 0], clip=["1", 1], lora_name="x", strength_model=1.0)
    graph["2"]["inputs"]["model"] = ["10", 0]
    graph["3"]["inputs"]["clip"] = graph["4"]["inputs"]["clip"] = ["10", 1]


def lora_behind_the_patch(graph):
    graph["10"] = node("Style", "LoraLoaderModelOnly", model=["2", 0], lora_name="x", strength_model=1.0)
    graph["6"]["inputs"]["model"] = ["10", 0]


def weight_from_a_number_node(graph):
    graph["10"] = node("Strength", "PrimitiveFloat", value=0.8)
    graph["2"]["inputs"]["weight"] = ["10", 0]


def weight_that_a_node_computes(graph):
    graph["10"] = node("Strength", "SomeMath", a=1, b=["5", 0])
    graph["2"]["inputs"]["weight"] = ["10", 0]


def custom_sampler(graph):
    graph["10"] = node("Guider", "CFGGuider", model=["2", 0], positive=["3", 0], negative=["4", 0], cfg=5.0)
    graph["11"] = node("Kind", "KSamplerSelect", sampler_name="dpmpp_2m_sde")
    graph["12"] = node("Sigmas", "BasicScheduler", model=["2", 0], scheduler="karras", steps=20, denoise=1.0)
    graph["13"] = node("Noise", "RandomNoise", noise_seed=0)
    links = {"guider": ["10", 0], "sampler": ["11", 0], "sigmas": ["12", 0], "noise": ["13", 0]}
    graph["6"] = node("Sampler", "SamplerCustomAdvanced", latent_image=["5", 0], **links)


def scheduler_with_the_plain_model(graph):
    custom_sampler(graph)
    graph["12"]["inputs"]["model"] = ["1", 0]
    inputs = graph["6"]["inputs"]
    graph["6"]["inputs"] = {name: inputs[name] for name in sorted(inputs, reverse=True)}


def second_pass(graph):
    graph["10"] = node("Larger", "LatentUpscaleBy", samples=["6", 0], upscale_method="nearest-exact", scale_by=1.5)
    graph["11"] = copy.deepcopy(graph["6"])
    graph["11"]["inputs"] |= {"latent_image": ["10", 0], "denoise": 0.5}
    graph["7"]["inputs"]["samples"] = graph["8"]["inputs"]["samples"] = ["11", 0]


def scaled_picture(graph):
    graph["10"] = node("Smaller", "ImageScale", image=["8", 0], width=64, height=64, crop="disabled")
    graph["9"]["inputs"]["images"] = ["10", 0]


def picture_and_mask(graph):
    graph["8"]["class_type"] = "LayeredDiffusionDecode"
    graph["10"] = node("Invert", "InvertMask", mask=["8", 1])
    graph["11"] = node("Join", "JoinImageWithAlpha", image=["8", 0], alpha=["10", 0])
    graph["9"]["inputs"]["images"] = ["11", 0]


def preview_beside_the_output(graph):
    graph["10"] = node("Preview", "PreviewImage", images=["7", 0])


def in_a_subgraph(graph):
    graph["20:8"] = graph.pop("8")
    graph["9"]["inputs"]["images"] = ["20:8", 0]


def unconnected_nodes(graph):
    graph["10"] = node("Left over", "KSampler", model=["1", 0])
    graph["11"] = node("Left over", "VAEDecode", samples=["99", 0])


@pytest.mark.parametrize(
    "edit",
    [
        lora,
        lora_behind_the_patch,
        weight_from_a_number_node,
        weight_that_a_node_computes,
        custom_sampler,
        scheduler_with_the_plain_model,
        second_pass,
        scaled_picture,
        picture_and_mask,
        preview_beside_the_output,
        in_a_subgraph,
        unconnected_nodes,
    ],
    ids=lambda edit: edit.__name__,
)
def test_an_edit_that_keeps_transparency_has_no_finding(graph, edit):
    """Edits that draw transparent pictures in ComfyUI are not refused."""
    edit(graph)
    assert facts(graph) == []


def patch_bypassed(graph):
    del graph["2"]
    graph["6"]["inputs"]["model"] = ["1", 0]


def patch_not_connected(graph):
    graph["6"]["inputs"]["model"] = ["1", 0]


def patch_before_another_sampler_only(graph):
    second_pass(graph)
    graph["11"]["inputs"]["model"] = ["1", 0]


def custom_sampler_without_the_patch(graph):
    custom_sampler(graph)
    graph["10"]["inputs"]["model"] = graph["12"]["inputs"]["model"] = ["1", 0]


def weight_zero(graph):
    graph["2"]["inputs"]["weight"] = 0


def weight_zero_from_a_number_node(graph):
    weight_from_a_number_node(graph)
    graph["10"]["inputs"]["value"] = 0.0


def decoder_muted(graph):
    del graph["8"]
    del graph["9"]["inputs"]["images"]


def decoder_bypassed(graph):
    del graph["8"]
    graph["9"]["inputs"]["images"] = ["7", 0]


def output_takes_the_opaque_picture(graph):
    graph["9"]["inputs"]["images"] = ["7", 0]


def decoder_without_mask(graph):
    graph["8"]["class_type"] = "LayeredDiffusionDecode"


def opaque_mask(graph):
    graph["10"] = node("Nothing masked", "SolidMask", value=0.0, width=64, height=64)
    graph["11"] = node("Join", "JoinImageWithAlpha", image=["8", 0], alpha=["10", 0])
    graph["9"]["inputs"]["images"] = ["11", 0]


def alpha_split_off(graph):
    graph["10"] = node("Split", "SplitImageWithAlpha", image=["8", 0])
    graph["9"]["inputs"]["images"] = ["10", 0]


def second_frame(graph):
    graph["8"]["class_type"] = "LayeredDiffusionDecodeSplit"
    graph["9"]["inputs"]["images"] = ["8", 1]


def save_image(graph):
    graph["9"]["class_type"] = "SaveImage"


def websocket_without_alpha(graph):
    graph["9"]["class_type"] = "SaveImageWebsocket"


def latent_without_sampler(graph):
    graph["8"]["inputs"]["samples"] = ["5", 0]


def sampler_muted(graph):
    del graph["6"]
    del graph["7"]["inputs"]["samples"], graph["8"]["inputs"]["samples"]


OPAQUE = "pictures would be opaque"
WEIGHT_ZERO = (
    f"Transparency Patch: its weight is 0 and the checkpoint does not have the patch in its weights: {OPAQUE}; "
    "set its weight to 1, or run scripts/merge-patch"
)
PATCHED_TWICE = (
    "Transparency Patch: the checkpoint already has the patch in its weights, and this node would apply it again; "
    "set its weight to 0 (PROFILE=merged), or load the original"
)
NO_ALPHA = "has no alpha of a transparent decoder; connect"
NO_DECODER = "a LayeredDiffusionDecodeRGBA node (is it muted or deleted?)"
OTHER_OUTPUT = (
    "does not report the picture's alpha; use a SaveAlphaImageWebsocket node, which sends the picture and its alpha"
)
UNPATCHED = f"no LayeredDiffusionApply node between Checkpoint and this sampler: {OPAQUE}"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (patch_bypassed, f"Sampler: {UNPATCHED}; add one, or enable it again if it is bypassed"),
        (patch_not_connected, f"Sampler: {UNPATCHED}; connect Transparency Patch"),
        (patch_before_another_sampler_only, f"Sampler: {UNPATCHED}; connect Transparency Patch"),
        (custom_sampler_without_the_patch, f"Guider: {UNPATCHED}; connect Transparency Patch"),
        (weight_zero, WEIGHT_ZERO),
        (weight_zero_from_a_number_node, WEIGHT_ZERO),
        (decoder_muted, f"Alpha PNG: no picture is connected to its input 'images'; connect {NO_DECODER}"),
        (decoder_bypassed, f"Alpha PNG: the picture from VAE Decode {NO_ALPHA} {NO_DECODER}"),
        (output_takes_the_opaque_picture, f"Alpha PNG: the picture from VAE Decode {NO_ALPHA} Alpha Decode"),
        (decoder_without_mask, f"Alpha PNG: the picture from Alpha Decode {NO_ALPHA} {NO_DECODER}"),
        (opaque_mask, f"Alpha PNG: the picture from Join {NO_ALPHA} Alpha Decode"),
        (alpha_split_off, f"Alpha PNG: the picture from Split {NO_ALPHA} Alpha Decode"),
        (second_frame, f"Alpha PNG: the picture from Alpha Decode {NO_ALPHA} Alpha Decode"),
        (save_image, f"Alpha PNG: SaveImage {OTHER_OUTPUT}"),
        (websocket_without_alpha, f"Alpha PNG: SaveImageWebsocket {OTHER_OUTPUT}"),
        (latent_without_sampler, "Alpha Decode: no sampler is connected to its input 'samples'; connect the sampler"),
        (sampler_muted, "Alpha Decode: no sampler is connected to its input 'samples'; connect the sampler"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_edit_that_loses_transparency_is_one_finding(graph, edit, expected):
    """One line: the node's title, what is wrong, what to do."""
    edit(graph)
    assert facts(graph) == [expected]


def test_faults_at_different_nodes_are_all_reported(graph):
    """Another output class and a bypassed patch are two findings."""
    save_image(graph)
    patch_bypassed(graph)
    assert [finding.node for finding in findings(graph, OUTPUT, merged=False)] == ["Alpha PNG", "Sampler"]


def test_a_merged_checkpoint_must_not_be_patched_again(graph):
    """With the patch in the weights: the weight must be 0, or the node may be missing; another weight is a finding."""
    assert facts(graph, merged=True) == [PATCHED_TWICE]
    weight_zero(graph)
    assert facts(graph, merged=True) == []
    patch_bypassed(graph)
    assert facts(graph, merged=True) == []


@pytest.fixture
def on_background():
    return stored_workflows.graph(Settings(), "foreground_on_background")


def test_a_patch_for_given_layers_needs_the_original_checkpoint(on_background):
    """It was made for that one; a checkpoint with another patch in its weights is a finding."""
    assert facts(on_background, output="16") == []
    assert facts(on_background, merged=True, output="16") == [
        "Foreground Patch: the checkpoint has another patch in its weights; load the original checkpoint"
    ]


def test_a_whole_picture_is_opaque(on_background):
    """The decoder needs the latents of the thing alone, not those of the thing on its background."""
    for node_id in ("14", "15"):
        on_background[node_id]["inputs"]["samples"] = ["11", 0]
    (fact,) = facts(on_background, output="16")
    assert fact.startswith("Whole Picture Sampler: no LayeredDiffusionApply node between Checkpoint and this sampler")


def test_nothing_is_said_about_a_checkpoint_that_is_missing(graph):
    """Weight 0 may be right: only the checkpoint knows."""
    weight_zero(graph)
    assert facts(graph, merged=None) == []


def test_a_graph_with_a_loop_is_read(graph):
    """A loop, which ComfyUI rejects, does not hang the check."""
    graph["10"] = node("A", "ImageScale", image=["11", 0])
    graph["11"] = node("B", "ImageScale", image=["10", 0])
    graph["9"]["inputs"]["images"] = ["10", 0]
    assert len(facts(graph)) == 1


def test_a_node_without_a_title_is_named_by_its_class(graph):
    """API format files of other tools have no titles."""
    del graph["6"]["_meta"]
    patch_bypassed(graph)
    assert facts(graph)[0].startswith("KSampler: ")
