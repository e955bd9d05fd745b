"""A stored workflow that changes while the server runs."""

import json
import shutil
import time

import pytest
from calls import JOBS
from titled import inputs

from handler.server import workflow_watch
from handler.server.openapi import JOB_INPUT
from handler.settings import ROOT


@pytest.fixture
def edited(tmp_path, make, monkeypatch):
    """A server over a copy of the workflows, and a function that changes the graph in it."""
    monkeypatch.setattr(workflow_watch, "POLL_S", 0.02)
    folder = tmp_path / "workflows"
    shutil.copytree(ROOT / "workflows", folder)
    path = folder / "txt2img_alpha.json"

    def edit(change):
        graph = json.loads(path.read_text("utf-8"))
        change(graph)
        path.write_text(json.dumps(graph), "utf-8")

    return make(workflows_dir=folder), edit


def steps(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"][JOB_INPUT]
    return schema["properties"]["num_inference_steps"]["default"]


def refused(client):
    return client.get(f"{JOBS}/health").json()["workflowRefused"]


def until(condition):
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_changed_workflow_is_used_without_a_restart(edited):
    """Jobs and /openapi.json have the new defaults."""
    client, edit = edited
    before = client.painter.workflow
    assert steps(client) == 20
    edit(lambda graph: inputs(graph, "Sampler").update(steps=12))
    until(lambda: client.painter.workflow is not before)
    until(lambda: steps(client) == 12)
    assert refused(client) is None


def test_a_workflow_that_cannot_run_is_refused_and_the_last_good_one_stays(edited):
    """/health has the reason until the file is right again."""
    client, edit = edited
    before = client.painter.workflow
    edit(lambda graph: inputs(graph, "Size").update(batch_size=2))
    until(lambda: refused(client) is not None)
    assert refused(client) == (
        "workflow txt2img_alpha: Size: it makes 2 pictures, and a job has one; set batch_size to 1"
    )
    assert client.painter.workflow is before
    edit(lambda graph: inputs(graph, "Size").update(batch_size=1))
    until(lambda: refused(client) is None)
    assert client.painter.workflow is not before
