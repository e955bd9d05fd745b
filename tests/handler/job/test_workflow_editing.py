"""What scripts/gui opens and saves."""

import json
import shutil

import pytest

from handler.job import workflow_editing
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


def test_the_profile_is_shown_and_not_saved(settings, stored):
    """Opening and saving without an edit changes nothing, although the GUI shows the tiny model's files."""
    before = stored()
    opened = workflow_editing.opened(settings)
    assert opened["graph"]["1"]["inputs"]["ckpt_name"] == "tiny_sdxl.safetensors"
    assert opened["layout"] is None
    assert workflow_editing.save(settings, opened["graph"], {"nodes": []}) == []
    assert stored() == before
    assert workflow_editing.opened(settings)["layout"] == {"nodes": []}


def test_an_edit_changes_one_line(settings, stored):
    """Also if the frontend has another order of keys, writes 5.0 as 5, and chose another seed for its last run."""
    before = stored().splitlines()
    graph = workflow_editing.opened(settings)["graph"]
    graph["6"]["inputs"] = dict(reversed(graph["6"]["inputs"].items())) | {"steps": 13, "cfg": 5, "seed": 99}
    assert workflow_editing.save(settings, graph, {}) == []
    changed = [(old, new) for old, new in zip(before, stored().splitlines(), strict=True) if old != new]
    assert changed == [('      "steps": 20,', '      "steps": 13,')]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda graph: graph.pop("2"), "Transparency Patch: bypassed, muted, renamed or deleted"),
        (lambda graph: graph["6"]["inputs"].update(model=["1", 0]), "Sampler: no LayeredDiffusionApply node"),
        (lambda graph: graph["6"]["inputs"].update(scheduler="slow"), "Sampler: 'scheduler' is \"slow\""),
        (lambda graph: graph["5"]["inputs"].update(width=1000), "Size: 'width' is 1000"),
    ],
    ids=["deleted", "not connected", "not a choice", "not a multiple of 64"],
)
def test_a_graph_that_cannot_run_is_not_saved(settings, stored, edit, reason):
    """The findings come back, and both files stay as they are."""
    before = stored()
    graph = workflow_editing.opened(settings)["graph"]
    edit(graph)
    findings = workflow_editing.save(settings, graph, {})
    assert any(finding.startswith(reason) for finding in findings), findings
    assert stored() == before
    assert json.loads(before)
    assert not (settings.workflows_dir / f"{NAME}.layout.json").exists()
