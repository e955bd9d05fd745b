import contextlib
import threading
import time

import pytest
from stand_in import StandIn
from test_run import transcript

from handler.comfyui import client as protocol
from handler.comfyui.client import ComfyClient
from handler.deadline import Deadline
from handler.errors import ComfyCrashed, JobCancelled, JobTimeout, NodeFailed, WorkflowRejected

GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {}, "_meta": {"title": "Checkpoint"}},
    "6": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Sampler"}},
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Shortens the protocol's waiting times, so that tests are fast."""
    monkeypatch.setattr(protocol, "FRAME_POLL_S", 0.05)
    monkeypatch.setattr(protocol, "SILENCE_S", 0.1)
    monkeypatch.setattr(protocol, "INTERRUPT_GRACE_S", 0.3)


def run(server, limit_s=10.0, on_progress=None):
    client = ComfyClient(server.address)
    try:
        return client.run(GRAPH, "9", Deadline(limit_s), on_progress)
    finally:
        client.close()


@pytest.mark.parametrize("name", ["success", "cached"])
def test_a_run_returns_its_picture_with_one_request(name):
    """A run ends with its picture, and ComfyUI got one request for it."""
    with StandIn(transcript(name)) as server:
        finished = run(server)
    png, _ = finished.result()
    assert png.startswith(b"\x89PNG")
    assert not finished.from_history
    assert len(server.submissions) == 1
    assert server.requests == []


@pytest.fixture
def client():
    """Makes a client that is closed after the test: `client(server)`."""
    with contextlib.ExitStack() as stack:
        yield lambda server: stack.enter_context(contextlib.closing(ComfyClient(server.address)))


def test_runs_share_one_websocket_and_one_history_request(client):
    """Each run has its own prompt_id, a canonical uuid4; the history is cleared once for twenty runs."""
    with StandIn(transcript("success")) as server:
        runs = client(server)
        ids = [runs.run(GRAPH, "9", Deadline(10)).prompt_id for _ in range(protocol.REMEMBERED_RUNS)]
    assert [body["prompt_id"] for body in server.submissions] == ids
    assert len(set(ids)) == len(ids)
    assert all(prompt_id[14] == "4" and prompt_id == prompt_id.lower() for prompt_id in ids)
    assert len({body["client_id"] for body in server.submissions}) == len(server.sockets) == 1
    assert server.requests == [("history", {"delete": ids})]


@pytest.mark.parametrize("is_aborted", [False, True])
def test_a_websocket_that_broke_between_two_runs_is_replaced(client, is_aborted):
    """If the websocket was closed or reset while idle, the next run connects again and is not run twice."""
    with StandIn(transcript("success")) as server:
        runs = client(server)
        runs.run(GRAPH, "9", Deadline(10))
        server.drop_sockets(is_aborted)
        finished = runs.run(GRAPH, "9", Deadline(10))
        finished.result()
    assert not finished.from_history
    assert (len(server.submissions), len(server.sockets)) == (2, 2)


def test_a_run_does_not_see_what_was_sent_to_another(client, monkeypatch):
    """A run that timed out leaves its websocket, on which more may arrive, and the next one connects again."""
    monkeypatch.setattr(protocol, "SILENCE_S", 10.0)  # so that the first run, once accepted, waits for its deadline
    with StandIn(transcript("success"), faults=["mute"]) as server:
        runs = client(server)
        with pytest.raises(JobTimeout):
            runs.run(GRAPH, "9", Deadline(0.5))
        runs.run(GRAPH, "9", Deadline(10)).result()
    assert len(server.sockets) == 2


def test_a_node_error_is_the_runs_error():
    """The returned run has the node's error."""
    with StandIn(transcript("node_error")) as server, pytest.raises(NodeFailed, match="3 channels"):
        run(server).result()


@pytest.mark.parametrize("fault", ["close", "mute", "lose end", "lose picture"])
def test_lost_frames_are_recovered(fault):
    """If the socket drops, falls silent or loses frames, /history decides, and a lost picture is sent again."""
    with StandIn(transcript("success"), faults=[fault]) as server:
        if fault == "lose picture":
            # The run ends properly, but ComfyUI sent no picture, so there is none to fetch.
            finished = run(server)
            assert finished.pictures == []
            assert len(server.submissions) == 1
            return
        png, _ = run(server).result()
    assert png.startswith(b"\x89PNG")
    assert len(server.submissions) == (1 if fault == "lose end" else 2)


def test_a_socket_that_always_breaks_is_an_error():
    """After three runs without a picture, the client gives up within a bounded time."""
    with (
        StandIn(transcript("success"), faults=["close"] * 9) as server,
        pytest.raises(ComfyCrashed, match="3 runs"),
    ):
        run(server)
    assert len(server.submissions) == 3


def test_a_run_that_comfyui_forgot_is_an_error():
    """If the socket breaks and neither queue nor history knows the run, ComfyUI was restarted: an error."""
    with (
        StandIn(transcript("success"), faults=["close"], knows=False) as server,
        pytest.raises(ComfyCrashed, match="no longer knows"),
    ):
        run(server)


def test_a_broken_submission_is_an_error():
    """If /prompt does not answer, the job fails and the run is removed."""
    with StandIn(transcript("success"), faults=["reset"]) as server, pytest.raises(ComfyCrashed):
        run(server)
    (prompt_id,) = {body["prompt_id"] for body in server.submissions}
    assert ("interrupt", {"prompt_id": prompt_id}) in server.requests


def test_a_server_that_is_gone_is_an_error():
    """A refused connection is ComfyCrashed."""
    with StandIn(transcript("success")) as server:
        pass
    with pytest.raises(ComfyCrashed):
        run(server)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unknown_class", "Node 'Transparency Patch' not found. The custom node may not be installed."),
        ("missing_input", "Sampler: Required input is missing (cfg)"),
        ("value_not_in_list", "Checkpoint: Value not in list (ckpt_name 'absent.safetensors')"),
        ("value_too_big", "5: Value 1000000000 bigger than max of 16384 (width 1000000000)"),
        ("partly_valid", "10: Required input is missing (images)"),
        ("no_output", "Prompt has no outputs"),
    ],
)
def test_a_rejected_graph_is_an_error_with_comfyuis_reason(name, reason):
    """HTTP 400, and 200 with node_errors, are WorkflowRejected with node, input and value."""
    with StandIn(transcript(name)) as server, pytest.raises(WorkflowRejected) as caught:
        run(server)
    assert caught.value.message == reason
    assert [path for path, _ in server.requests] == ["queue", "interrupt", "history"]


def test_a_deadline_ends_a_run_and_removes_it():
    """After the deadline, the run is deleted from the queue and interrupted by its prompt_id."""
    before = time.monotonic()
    with StandIn(transcript("success"), faults=["mute"], knows=False, pending=True) as server:
        client = ComfyClient(server.address)
        with pytest.raises(JobTimeout):
            client.run(GRAPH, "9", Deadline(0.3))
        client.close()
    prompt_id = server.submissions[0]["prompt_id"]
    assert server.requests == [("queue", {"delete": [prompt_id]}), ("interrupt", {"prompt_id": prompt_id})]
    assert client.is_stuck
    assert time.monotonic() - before < 5


def test_a_cancellation_ends_a_run_immediately():
    """If it is cancelled from another thread, the run ends long before its deadline."""
    deadline = Deadline(600)
    threading.Timer(0.2, deadline.cancel).start()
    before = time.monotonic()
    with StandIn(transcript("success"), faults=["mute"], pending=True, knows=False) as server:
        client = ComfyClient(server.address)
        with pytest.raises(JobCancelled):
            client.run(GRAPH, "9", deadline)
        client.close()
    assert time.monotonic() - before < 5


def test_progress_is_reported():
    """The callback sees the run after each frame."""
    seen = []
    with StandIn(transcript("success")) as server:
        run(server, on_progress=lambda run: seen.append(run.progress))
    assert any(progress and progress.value == 3 for progress in seen)
