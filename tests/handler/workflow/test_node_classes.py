"""Stored graphs against the recorded node classes of the pinned ComfyUI."""

import copy
import json

import pytest

from handler.job import stored_workflows
from handler.settings import Settings
from handler.workflow import canonical

SETTINGS = Settings()
FILES = {
    *("sd_xl_base_1.0.safetensors", "sdxl_lightning_4step_lora.safetensors"),
    *("layer_xl_transparent_attn.safetensors", "vae_transparent_decoder.safetensors"),
    *("layer_xl_bg2ble.safetensors", "layer_xl_bgble2fg.safetensors"),
}


@pytest.fixture(scope="module")
def classes():
    return stored_workflows.node_classes(SETTINGS)


@pytest.fixture
def graph(files):
    return copy.deepcopy(files[0])


@pytest.mark.parametrize("name", stored_workflows.names(SETTINGS))
def test_stored_graphs_fit_and_are_in_canonical_form(classes, name):
    """They name every widget, ComfyUI accepts them, and our tools would write them as they are."""
    graph = stored_workflows.graph(SETTINGS, name)
    assert classes.findings(graph, FILES) == []
    assert classes.left_out(graph) == []
    written = (SETTINGS.workflows_dir / f"{name}.json").read_text("utf-8")
    assert stored_workflows.formatted(SETTINGS, graph) == written


def put(node, name, value):
    def edit(graph):
        graph[node]["inputs"][name] = value

    return edit


def unknown_class(graph):
    graph["6"]["class_type"] = "FasterSampler"


def model_not_connected(graph):
    del graph["6"]["inputs"]["model"]


ITS = "Sampler: its input"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (unknown_class, "Sampler: ComfyUI has no class FasterSampler; install its node pack, or remove the node"),
        (model_not_connected, "Sampler: nothing is connected to its input 'model'; connect a MODEL"),
        (put("6", "model", ["99", 0]), f"{ITS} 'model' is connected to a missing node; connect a MODEL"),
        (put("6", "model", ["3", 0]), f"{ITS} 'model' takes MODEL, and Prompt has CONDITIONING there; connect a MODEL"),
        (
            put("6", "model", ["2", 7]),
            f"{ITS} 'model' is connected to output 7 of Transparency Patch; it has 1",
        ),
        (put("6", "steps", "many"), "Sampler: 'steps' is \"many\"; it must be INT"),
        (put("6", "steps", True), "Sampler: 'steps' is true; it must be INT"),
        (put("6", "steps", 0), "Sampler: 'steps' is 0; it must be from 1 to 10000"),
        (
            put("6", "scheduler", "slow"),
            (
                "Sampler: 'scheduler' is \"slow\"; it must be one of simple, sgm_uniform, karras, exponential, "
                "ddim_uniform, …"
            ),
        ),
        (
            put("1", "ckpt_name", "mine.safetensors"),
            "Checkpoint: 'ckpt_name' is \"mine.safetensors\"; put this file into models/, or choose another",
        ),
    ],
)
def test_what_comfyui_would_reject_is_one_line(classes, graph, edit, expected):
    """Classes, inputs, types, ranges, choices, files and links."""
    edit(graph)
    assert list(map(str, classes.findings(graph, FILES))) == [expected]


def test_widgets_that_a_file_leaves_out_are_named_and_completed(classes, graph):
    """The GUI would take their values from the graph that was open before."""
    del graph["8"]["inputs"]["passes"]
    (finding,) = classes.left_out(graph)
    assert str(finding) == "Alpha Decode: the file leaves out 'passes'; run layerdiffuse-alpha workflow format"
    assert classes.completed(graph)["8"]["inputs"]["passes"] == 8


def test_the_canonical_form_does_not_depend_on_order_or_number_type(classes, graph):
    """The frontend sorts keys in its own way and writes 5.0 as 5."""
    expected = canonical.text(classes.completed(graph))
    shuffled = {node: graph[node] for node in reversed(graph)}
    for entry in shuffled.values():
        entry["inputs"] = dict(reversed(entry["inputs"].items()))
    graph["6"]["inputs"]["cfg"] = 5
    assert canonical.text(classes.completed(shuffled)) == expected
    assert json.loads(expected) == graph


def test_nodes_are_written_in_the_order_of_their_numbers():
    """Also those of subgraphs, whose ids have a colon."""
    node = {"class_type": "A", "inputs": {}}
    assert list(json.loads(canonical.text(dict.fromkeys(["10:2", "10", "9", "a"], node)))) == ["a", "9", "10", "10:2"]
