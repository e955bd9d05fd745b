"""Our nodes have everything that the old pack's ten published example workflows use.

Recorded facts, one row for each different use in huchenlei/ComfyUI-layerdiffuse 1.0.4's
example_workflows: node, links that go in, values of its widgets in order, types that come out.
"""

import pytest
from layerdiffuse_alpha.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

CONDITIONED = ("MODEL", "CONDITIONING", "CONDITIONING")
LINK_TYPES = {"MODEL", "CONDITIONING", "LATENT", "IMAGE"}
USES = [
    ("LayeredDiffusionApply", ["model"], ["SDXL, Conv Injection", 1], ("MODEL",)),
    ("LayeredDiffusionCondApply", ["model", "cond", "uncond", "latent"], ["SDXL, Background", 1], CONDITIONED),
    (
        "LayeredDiffusionDiffApply",
        ["model", "cond", "uncond", "blended_latent", "latent"],
        ["SDXL, Background", 1],
        CONDITIONED,
    ),
    (
        "LayeredDiffusionDiffApply",
        ["model", "cond", "uncond", "blended_latent", "latent"],
        ["SDXL, Foreground", 1],
        CONDITIONED,
    ),
    (
        "LayeredDiffusionJointApply",
        ["model", "fg_cond", "bg_cond", "blended_cond"],
        ["SD15, attn_sharing, Batch size (3N)"],
        ("MODEL",),
    ),
    (
        "LayeredDiffusionCondJointApply",
        ["model", "image", "cond", "blended_cond"],
        ["SD15, Background, attn_sharing, Batch size (2N)"],
        ("MODEL",),
    ),
    (
        "LayeredDiffusionCondJointApply",
        ["model", "image", "cond", "blended_cond"],
        ["SD15, Foreground, attn_sharing, Batch size (2N)"],
        ("MODEL",),
    ),
    ("LayeredDiffusionDecode", ["samples", "images"], ["SDXL", 16], ("IMAGE", "MASK")),
    ("LayeredDiffusionDecodeRGBA", ["samples", "images"], ["SDXL", 16], ("IMAGE",)),
    ("LayeredDiffusionDecodeSplit", ["samples", "images"], [2, "SDXL", 16], ("IMAGE",) * 3),
    ("LayeredDiffusionDecodeSplit", ["samples", "images"], [3, "SD15", 16], ("IMAGE",) * 3),
]


def takes(kind, options, value):
    if isinstance(kind, list):
        return value in kind
    return kind in ("INT", "FLOAT") and options["min"] <= value <= options["max"]


@pytest.mark.parametrize(("name", "links", "widgets", "outputs"), USES)
def test_a_published_use_is_valid(name, links, widgets, outputs):
    """Links have the same names, widgets the same order and valid values, outputs the same types."""
    node = NODE_CLASS_MAPPINGS[name]
    inputs = node.INPUT_TYPES()
    given = {**inputs["required"], **inputs.get("optional", {})}
    assert [key for key, (kind, *_) in given.items() if not isinstance(kind, list) and kind in LINK_TYPES] == links
    found = [(kind, *more) for kind, *more in given.values() if isinstance(kind, list) or kind not in LINK_TYPES]
    for (kind, *more), value in zip(found, widgets, strict=False):
        assert takes(kind, more[0] if more else {}, value), (kind, value)
    ours = found[len(widgets) :]
    assert all("default" in more[0] for _, *more in ours), "what the old pack does not have needs a default"
    assert tuple(node.RETURN_TYPES) == outputs


def test_every_node_has_a_display_name():
    """Every node has a display name, and every display name a node."""
    assert NODE_CLASS_MAPPINGS.keys() == NODE_DISPLAY_NAME_MAPPINGS.keys()
    assert len(NODE_CLASS_MAPPINGS) == 10
