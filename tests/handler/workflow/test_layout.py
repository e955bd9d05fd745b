"""The layout of a stored workflow, and what a picture's file says about the graph that drew it."""

import copy
import json

import pytest
from titled import inputs, node_id

from handler.job import profiles, stored_workflows
from handler.settings import Settings
from handler.workflow import gui_format

SETTINGS = Settings(profile="tiny", embed_workflow=True)


@pytest.fixture
def workflow():
    return profiles.read(SETTINGS)


@pytest.mark.parametrize("name", stored_workflows.names(SETTINGS))
def test_each_stored_workflow_has_a_layout_of_its_graph(name):
    """Nodes, titles and links are the same, and so are the values: with SDXL's files, and without the part in view."""
    layout = stored_workflows.layout(SETTINGS, name)
    graph = stored_workflows.graph(SETTINGS, name)
    assert layout is not None
    assert gui_format.to_graph(layout.saved, layout.classes) == graph
    assert layout.with_values(graph) == layout.saved


def test_the_chunks_have_the_jobs_values(workflow):
    """`prompt` is the graph in API format, `workflow` the layout; the output node's own switch is not in them."""
    graph = workflow.render({"prompt": "a blue ball", "seed": 5, "width": 64})
    submitted, chunks = workflow.with_metadata(graph)
    assert submitted[workflow.output_node]["inputs"]["metadata"] is True
    assert chunks["prompt"] == graph == workflow.render({"prompt": "a blue ball", "seed": 5, "width": 64})
    assert gui_format.to_graph(chunks["workflow"], stored_workflows.node_classes(SETTINGS)) == graph


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph.pop(node_id(graph, "Negative Prompt")),
        lambda graph: inputs(graph, "Sampler").update(negative=[node_id(graph, "Prompt"), 0]),
        lambda graph: graph[node_id(graph, "Prompt")]["_meta"].update(title="Text"),
        lambda graph: graph.update({"1000": copy.deepcopy(graph[node_id(graph, "Alpha PNG")])}),
    ],
)
def test_a_layout_of_another_graph_is_not_used(workflow, change):
    """The graph was edited without the GUI: a picture would otherwise open another graph than the one that drew it."""
    graph = json.loads((SETTINGS.workflows_dir / f"{workflow.name}.json").read_text("utf-8"))
    assert workflow.layout.fits(graph)
    change(graph)
    assert not workflow.layout.fits(graph)


def test_without_embedding_there_is_no_layout():
    """A RunPod worker, by default, sends nothing that would be written into a picture."""
    assert not Settings().embed_workflow
    assert profiles.read(Settings(profile="tiny")).layout is None
