"""What scripts/gui opens and saves."""

import json
import shutil

import pytest
from titled import inputs, node_id

from handler.job import profiles, stored_workflows, workflow_editing
from handler.settings import ROOT, Settings

NAME = "txt2img_alpha"


@pytest.fixture
def settings(tmp_path):
    shutil.copytree(ROOT / "workflows", tmp_path / "workflows")
    return Settings(profile="tiny", workflows_dir=tmp_path / "workflows")


@pytest.fixture
def stored(settings):
    """Returns the stored file's text, as of now."""
    return lambda: (settings.workflows_dir / f"{NAME}.json").read_text("utf-8")


@pytest.fixture
def layout(settings):
    """Returns the text of the stored layout, as of now."""
    return lambda: (settings.workflows_dir / f"{NAME}.layout.json").read_text("utf-8")


def test_the_profile_is_shown_and_not_saved(settings, stored, layout):
    """Opening and saving without an edit changes nothing, although the GUI shows the tiny model's files."""
    before = stored(), layout()
    opened = workflow_editing.opened(settings)
    assert inputs(opened["graph"], "Checkpoint")["ckpt_name"] == "tiny_sdxl.safetensors"
    assert opened["layout"]["nodes"][0]["widgets_values"] == ["tiny_sdxl.safetensors"]
    opened["layout"]["extra"]["ds"] = {"scale": 0.5, "offset": [1, 2]}  # the part in view
    assert workflow_editing.save(settings, opened["graph"], opened["layout"]) == []
    assert (stored(), layout()) == before


def test_an_edit_changes_one_line(settings, stored):
    """Also if the frontend has another order of keys, writes 5.0 as 5, and chose another seed for its last run."""
    before = stored().splitlines()
    opened = workflow_editing.opened(settings)
    graph = opened["graph"]
    sampler = dict(reversed(inputs(graph, "Sampler").items()))
    graph[node_id(graph, "Sampler")]["inputs"] = sampler | {"steps": 13, "cfg": 5, "seed": 99}
    assert workflow_editing.save(settings, graph, opened["layout"]) == []
    changed = [(old, new) for old, new in zip(before, stored().splitlines(), strict=True) if old != new]
    assert changed == [('      "steps": 20,', '      "steps": 13,')]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            lambda graph: graph.pop(node_id(graph, "Transparency Patch")),
            "Transparency Patch: bypassed, muted, renamed or deleted",
        ),
        (
            lambda graph: inputs(graph, "Sampler").update(model=[node_id(graph, "Checkpoint"), 0]),
            "Sampler: no LayeredDiffusionApply node",
        ),
        (lambda graph: inputs(graph, "Sampler").update(scheduler="slow"), "Sampler: 'scheduler' is \"slow\""),
        (lambda graph: inputs(graph, "Size").update(width=1000), "Size: 'width' is 1000"),
    ],
    ids=["deleted", "not connected", "not a choice", "not a multiple of 64"],
)
def test_a_graph_that_cannot_run_is_not_saved(settings, stored, layout, edit, reason):
    """The findings come back, and both files stay as they are."""
    before = stored(), layout()
    graph = workflow_editing.opened(settings)["graph"]
    edit(graph)
    findings = workflow_editing.save(settings, graph, {"nodes": [], "links": []})
    assert any(finding.startswith(reason) for finding in findings), findings
    assert (stored(), layout()) == before


def test_a_new_workflow_is_stored_after_confirmation(settings):
    """Without it, only the fields are returned; a name that is taken or is not one is refused."""
    opened = workflow_editing.opened(settings)
    edited = opened["graph"], opened["layout"]
    asked = workflow_editing.save_as(settings, "sketch", *edited, confirmed=False)
    assert (asked["findings"], "seed: seed of Sampler" in asked["fields"]) == ([], True)
    assert "sketch" not in stored_workflows.names(settings)
    assert workflow_editing.save_as(settings, "sketch", *edited, confirmed=True) == asked
    assert "sketch" in stored_workflows.names(settings)
    for suffix in (".json", ".layout.json"):
        sketch, original = (settings.workflows_dir / f"{name}{suffix}" for name in ("sketch", NAME))
        assert json.loads(sketch.read_bytes()) == json.loads(original.read_bytes()), suffix
    for name in ("sketch", "../sketch", "", "a b"):
        assert workflow_editing.save_as(settings, name, *edited, confirmed=True)["findings"] != []
    assert profiles.load(settings).named("sketch").name == "sketch"
