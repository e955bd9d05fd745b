import base64
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.comfyui.run import Message, PictureFrame, Run, parse_binary, parse_text
from handler.errors import BadPicture, GenerationError, GpuBroken, JobCancelled, NodeFailed, OutOfMemory

TRANSCRIPTS = Path(__file__).with_name("transcripts")


def transcript(name):
    return json.loads((TRANSCRIPTS / f"{name}.json").read_text("utf-8"))


def frames(recorded):
    for frame in recorded["frames"]:
        parsed = parse_text(frame["text"]) if "text" in frame else parse_binary(base64.b64decode(frame["binary"]))
        yield parsed, frame["at_s"]


def replay(name, keep=lambda frame: True):
    recorded = transcript(name)
    run = Run(recorded["prompt_id"], recorded["output_node"])
    for frame, at_s in frames(recorded):
        if keep(frame):
            run.receive(frame, at_s)
    return run


@pytest.mark.parametrize("name", ["success", "cached"])
def test_a_recorded_success_has_picture_and_report(name):
    """A run, cached or not, ends with one PNG of the reported size."""
    run = replay(name)
    assert run.finished
    png, output = run.result()
    assert png.startswith(b"\x89PNG")
    assert output["alpha"][0]["size_bytes"] == len(png)


def test_seconds_are_counted_by_node():
    """Each node that ran has its time, and the times add up to the run's."""
    recorded = transcript("success")
    run = replay("success")
    assert set(run.seconds) == {str(n) for n in range(1, 10)}
    assert sum(run.seconds.values()) <= recorded["frames"][-1]["at_s"]
    assert run.seconds["6"] > 0


def test_the_run_is_over_with_node_null_and_not_before():
    """execution_success is not yet the end: /history has the run only after executing {node: null}."""
    recorded = transcript("success")
    run = Run(recorded["prompt_id"], recorded["output_node"])
    *all_but_last, last = list(frames(recorded))
    for frame, at_s in all_but_last:
        run.receive(frame, at_s)
    assert any(isinstance(frame, Message) and frame.type == "execution_success" for frame, _ in all_but_last)
    assert not run.finished
    run.receive(*last)
    assert run.finished


def test_progress_is_seen():
    """While the sampler runs, its progress is known."""
    recorded = transcript("success")
    run = Run(recorded["prompt_id"], recorded["output_node"])
    seen = []
    for frame, at_s in frames(recorded):
        run.receive(frame, at_s)
        if run.progress:
            seen.append((run.progress.value, run.progress.maximum))
    assert seen[-1] == (3, 3)


def test_a_recorded_node_error_is_the_runs_error():
    """An exception in a node becomes NodeFailed with the node's class and reason, without its traceback."""
    run = replay("node_error")
    assert run.finished
    with pytest.raises(NodeFailed) as caught:
        run.result()
    assert caught.value.message == (
        "SaveAlphaImageWebsocket failed with ValueError: images have 3 channels, expected 4 (red, green, blue, alpha)"
    )


def test_an_exception_of_a_node_pack_has_no_path():
    """ComfyUI names a pack's module after its folder; callers see the pack and the class only."""
    run = Run("1", "9")
    data = {
        "prompt_id": "1",
        "node_type": "KSampler",
        "exception_type": "/opt/app/custom_nodes/layerdiffuse_alpha.proof.PatchNotApplied",
        "exception_message": "this ComfyUI (0.30.0) does not apply the patch",
    }
    run.receive(Message("execution_error", data), 0.0)
    with pytest.raises(NodeFailed) as caught:
        run.result()
    reason = "layerdiffuse_alpha.proof.PatchNotApplied: this ComfyUI (0.30.0) does not apply the patch"
    assert caught.value.message == f"KSampler failed with {reason}"


def test_a_recorded_interruption_is_a_cancellation():
    """An interrupted run ends as cancelled."""
    run = replay("interrupted")
    assert run.finished
    with pytest.raises(JobCancelled):
        run.result()


def test_frames_of_another_run_are_ignored():
    """Messages with another prompt_id change nothing."""
    run = Run("00000000-0000-0000-0000-000000000000", "9")
    for frame, at_s in frames(transcript("success")):
        run.receive(frame, at_s)
    assert run == Run("00000000-0000-0000-0000-000000000000", "9")


def test_a_picture_of_another_node_is_not_the_result():
    """Only pictures that arrive while the output node runs count, not earlier previews."""
    recorded = transcript("success")
    run = Run(recorded["prompt_id"], recorded["output_node"])
    for frame, at_s in frames(recorded):
        run.receive(PictureFrame(b"preview"), at_s)
        if isinstance(frame, Message) and frame.type == "executing" and frame.data["node"] == "9":
            break
        run.receive(frame, at_s)
    assert run.pictures == []


@pytest.mark.parametrize("count", [0, 2])
def test_any_number_of_pictures_except_one_is_an_error(count):
    """A run with no picture, or with two, has no result."""
    run = replay("success")
    run.pictures = run.pictures * count
    with pytest.raises(BadPicture, match=f"produced {count} pictures"):
        run.result()


@pytest.mark.parametrize(
    ("name", "error"), [("success", None), ("cached", None), ("node_error", NodeFailed), ("interrupted", JobCancelled)]
)
def test_history_has_the_same_outcome(name, error):
    """The entry in /history leads to the same outcome as the frames."""
    recorded = transcript(name)
    heard, read = replay(name), Run(recorded["prompt_id"], recorded["output_node"])
    read.finish_from(recorded["history"][recorded["prompt_id"]])
    assert read.finished
    assert read.from_history
    assert type(read.error) is type(heard.error)
    assert (error is None) == (read.error is None)
    if error:
        assert read.error.message == heard.error.message
    assert read.output == heard.output


@pytest.mark.parametrize("entry", [{}, {"status": None}, {"status": {"status_str": "error", "messages": []}}])
def test_a_history_without_success_is_a_failure(entry):
    """An entry without the status "success" is a failure."""
    run = Run("x", "9")
    run.finish_from(entry)
    with pytest.raises(NodeFailed):
        run.result()


@given(st.text() | st.sampled_from(["[]", '{"type": 1, "data": {}}', '{"type": "x"}', '{"type": "x", "data": []}']))
def test_any_text_is_a_message_or_nothing(text):
    """Text that is not a message of ComfyUI is ignored and raises nothing."""
    assert parse_text(text) is None or isinstance(parse_text(text), Message)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_picture_or_nothing(frame):
    """Bytes that are neither a PNG frame nor a WebP frame are ignored and raise nothing."""
    parsed = parse_binary(frame)
    assert (parsed is not None) == (
        frame[:8] in {struct.pack(">II", 1, 2), struct.pack(">II", 1, 3)} and len(frame) > 8
    )


@given(st.sampled_from(["executing", "executed", "progress", "execution_error", "execution_interrupted"]), st.data())
def test_any_data_of_a_known_message_is_accepted(kind, data):
    """Known messages with missing or unexpected members raise nothing; without a picture the run has no result."""
    members = st.dictionaries(
        st.sampled_from(["node", "output", "value", "max", "exception_type", "exception_message", "node_type"]),
        st.none() | st.integers() | st.text() | st.lists(st.integers()),
    )
    run = Run("p", "9")
    run.receive(Message(kind, {**data.draw(members), "prompt_id": "p"}), 0.0)
    with pytest.raises(GenerationError):
        run.result()


@pytest.mark.parametrize(
    ("exception_type", "message", "error"),
    [
        ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB.", OutOfMemory),
        ("torch.AcceleratorError", "CUDA error: out of memory", OutOfMemory),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to", OutOfMemory),
        ("torch.AcceleratorError", "CUDA error: an illegal memory access was encountered", GpuBroken),
        ("torch.AcceleratorError", "CUDA error: device-side assert triggered", GpuBroken),
        ("RuntimeError", "CUDA error: no kernel image is available for execution on the device", GpuBroken),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", GpuBroken),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", GpuBroken),
        ("RuntimeError", "The size of tensor a (4) must match the size of tensor b (3)", NodeFailed),
    ],
)
def test_errors_of_torch_are_told_apart(exception_type, message, error):
    """Memory that is short, a GPU that is broken until ComfyUI restarts, and anything else."""
    data = {"node_type": "KSampler", "exception_type": exception_type, "exception_message": message}
    run = Run("p", "9")
    run.receive(Message("execution_error", {**data, "prompt_id": "p"}), 0.0)
    assert type(run.error) is error
