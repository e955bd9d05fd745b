"""The GUI's own file format, against what the GUI itself exported.

gui_edits.json.gz has, for each edit of tests/integration/gui_edits.py, `workflow`, the graph as the GUI of ComfyUI
0.30 (frontend 1.47.12) saves it, and `output`, as it exports it; tests/integration/test_gui.py repeats the comparison
in the browser.
"""

import copy
import gzip
import json
from pathlib import Path

import pytest

from handler.errors import WorkflowInvalid
from handler.job import stored_workflows
from handler.settings import Settings
from handler.workflow import gui_format

EDITS = json.loads(gzip.decompress(Path(__file__).with_name("gui_edits.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def classes():
    return stored_workflows.node_classes(Settings())


@pytest.mark.parametrize("name", EDITS)
def test_a_graph_is_converted_as_the_gui_exports_it(classes, name):
    """Nodes, titles, values and links are the same."""
    assert gui_format.to_graph(EDITS[name]["workflow"], classes) == EDITS[name]["output"]


@pytest.mark.parametrize("name", EDITS)
def test_its_own_values_change_nothing(classes, name):
    """Layout, notes, groups and colours stay, and so do values."""
    workflow = EDITS[name]["workflow"]
    assert gui_format.with_values(workflow, EDITS[name]["output"], classes) == workflow


@pytest.mark.parametrize(
    "name", ["nothing", "steps from Primitive", "subgraph", "subgraph in a subgraph", "widget of a subgraph", "reroute"]
)
def test_other_values_take_effect(classes, name):
    """A graph with other values, written into the layout, is exported with these values."""
    graph = copy.deepcopy(EDITS[name]["output"])
    for entry in graph.values():
        for key in entry["inputs"].keys() & {"steps", "passes", "text", "width"}:
            if not isinstance(entry["inputs"][key], list):
                entry["inputs"][key] = "another" if key == "text" else 64
    assert gui_format.to_graph(gui_format.with_values(EDITS[name]["workflow"], graph, classes), classes) == graph


def slot(name):
    return {"name": name, "type": "*", "widget": {"name": name} if name == "codec" else None, "link": None}


@pytest.mark.parametrize(
    ("node", "fact"),
    [
        ({"type": "Nowhere"}, "ComfyUI has no class Nowhere"),
        (
            {"type": "SaveVideo", "inputs": [slot("video"), slot("codec")]},
            "only the GUI can convert 'codec' of SaveVideo",
        ),
    ],
)
def test_what_cannot_be_converted_is_named(classes, node, fact):
    """A wrong value would be worse than a refusal."""
    workflow = copy.deepcopy(EDITS["nothing"]["workflow"])
    workflow["nodes"].append({"id": 99, "title": "Odd", "mode": 0, **node})
    with pytest.raises(WorkflowInvalid) as caught:
        gui_format.to_graph(workflow, classes)
    assert caught.value.details[0].startswith(f"Odd: {fact}")


def test_a_damaged_file_is_refused(classes):
    """It never raises anything else."""
    with pytest.raises(WorkflowInvalid, match="malformed"):
        gui_format.to_graph({"nodes": [{"id": 1}], "links": [[1, 2]]}, classes)


def test_a_widget_that_only_the_gui_has_is_exported(classes):
    """The frontend adds `image` to SaveGLB, which ComfyUI itself does not know."""
    mesh = {"name": "mesh", "type": "MESH", "link": None}
    node = {"id": 1, "type": "SaveGLB", "mode": 0, "inputs": [mesh], "widgets_values": ["mesh/ComfyUI", ""]}
    graph = gui_format.to_graph({"nodes": [node], "links": []}, classes)
    assert graph["1"]["inputs"] == {"filename_prefix": "mesh/ComfyUI", "image": ""}
