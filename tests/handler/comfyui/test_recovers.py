"""Jobs on a ComfyUI that fails: a child process that speaks its protocol, the real supervisor and generator."""

import contextlib
import json
import os
import resource
import signal
import threading
import time

import fake_comfyui
import pytest

from handler.comfyui import api
from handler.comfyui import client as protocol
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import (
    ComfyCrashed,
    ComfyUnavailable,
    GpuBroken,
    InternalError,
    JobTimeout,
    NodeFailed,
    NoGpu,
    OutOfMemory,
)
from handler.job import fitness, profiles
from handler.job.generate import Generator
from handler.settings import Settings

CUDA = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"
NODE = "ValueError: an odd number"
LIMIT_S = 30.0


def until(holds):
    end_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


class Painter:
    """A generator on a fake ComfyUI with a plan."""

    def __init__(self, folder, device="cpu", **plan):
        self._plan = fake_comfyui.install(folder, **plan)
        settings = Settings(profile="tiny", device=device, comfyui_dir=folder, start_timeout_s=20)
        self.comfyui = ComfyProcess(settings)
        self.generator = Generator(profiles.load(settings), self.comfyui, settings)

    @property
    def seen(self):
        return json.loads(self._plan.read_text())["seen"]

    def draw(self, seed=1, limit_s=LIMIT_S):
        """Returns how many attempts a picture took."""
        request = self.generator.parse({"prompt": "x", "seed": seed, "width": 64, "height": 64})
        return self.generator.generate(request, Deadline(limit_s)).info["attempts"]


@pytest.fixture
def painter(tmp_path):
    """Makes a painter: `painter(graphs=[...])`."""
    made = []

    def make(**plan):
        made.append(Painter(tmp_path, **plan))
        return made[-1]

    yield make
    for painter in made:
        painter.comfyui.stop()


@pytest.mark.parametrize(
    ("graphs", "attempts", "starts"),
    [
        ([], 1, 1),
        (["die before"], 2, 2),
        (["die before", "die before"], 3, 3),
        (["die"], 2, 2),
        (["500"], 2, 2),
        (["thread"], 2, 2),
        ([CUDA], 2, 2),
        ([OUT_OF_MEMORY], 2, 1),
    ],
)
def test_a_job_outlives_a_fault(painter, graphs, attempts, starts):
    """One fault costs an attempt, not the job: ComfyUI is restarted or its memory freed, then the picture is drawn."""
    painter = painter(graphs=graphs, sticky=True)
    assert painter.draw() == attempts
    assert [event.split()[0] for event in painter.seen].count("start") == starts
    assert painter.draw(seed=2) == 1
    assert not painter.comfyui.unfit.is_set()
    assert ("free" in painter.seen) == (graphs == [OUT_OF_MEMORY])


def test_a_job_that_loses_comfyui_twice_fails_with_the_cause(painter):
    """Killed in both attempts, the job is comfyui_crashed; the next one works."""
    painter = painter(graphs=["die", "die"])
    with pytest.raises(ComfyCrashed, match="comfyui_crashed: ComfyUI ended: it was killed by SIGKILL"):
        painter.draw()
    assert painter.draw(seed=2) == 1


def test_memory_that_is_too_small_fails_the_job_alone(painter):
    """If both attempts run out of memory, the error says what to do, and ComfyUI is not restarted."""
    painter = painter(graphs=[OUT_OF_MEMORY, OUT_OF_MEMORY])
    with pytest.raises(OutOfMemory, match="KSampler ran out of memory: ask for a smaller picture"):
        painter.draw()
    assert painter.draw(seed=2) == 1
    assert painter.comfyui.restarts() == 0


@pytest.mark.parametrize(
    ("graphs", "error"),
    [
        ([CUDA, CUDA], GpuBroken),
        (["thread", "thread"], ComfyCrashed),
        ([NODE, NODE, NODE], NodeFailed),
    ],
)
def test_a_fault_that_a_restart_does_not_cure_gives_comfyui_up(painter, graphs, error):
    """It fails one job, or two with node_failed; it gets no other job, and no other ComfyUI is started."""
    painter = painter(graphs=graphs)
    failed = 0
    while not painter.comfyui.unfit.is_set():
        with pytest.raises(error):
            painter.draw(seed=failed)
        failed += 1
    assert failed == len(graphs) - 1
    with pytest.raises(ComfyUnavailable, match=str(painter.comfyui.unfit_reason)[:20]):
        painter.draw(seed=9)
    assert painter.comfyui.restarts() == 1
    until(lambda: painter.comfyui.pid is None)


def test_two_requests_that_fail_make_a_sick_comfyui_the_cause(painter):
    """After two node_failed of different requests, the second job runs again on a fresh ComfyUI and succeeds."""
    painter = painter(graphs=[NODE, NODE, NODE])
    for _ in range(2):  # the same request: its own fault
        with pytest.raises(NodeFailed):
            painter.draw(seed=1)
    assert painter.draw(seed=2) == 2
    assert painter.comfyui.restarts() == 1


def test_a_start_that_fails_is_tried_three_times(painter):
    """A ComfyUI that dies at boot is given up within seconds, and the error is its exception."""
    painter = painter(starts=["die"] * 9)
    before_s = time.monotonic()
    for _ in range(3):
        with pytest.raises(ComfyUnavailable, match="ended while starting: RuntimeError: Found no NVIDIA driver"):
            painter.draw()
    assert time.monotonic() - before_s < 15
    assert painter.seen == ["start die"] * 3


def test_a_start_that_fails_once_costs_nothing(painter):
    """Killed while it started, ComfyUI is started again, and the job waits for it; no attempt is lost."""
    assert painter(starts=["die"]).draw() == 1


def test_an_idle_comfyui_that_is_killed_is_restarted_at_once(painter, caplog):
    """Its death is logged with the exit status; a job is ready to run there, or submitted before anyone noticed."""
    painter = painter()
    painter.draw()
    killed = painter.comfyui.pid
    os.kill(killed, signal.SIGKILL)
    until(lambda: painter.comfyui.pid != killed and painter.comfyui.is_ready)
    (ended,) = (record for record in caplog.records if record.message == "ComfyUI ended")
    assert (ended.status, ended.reason) == (-9, "ComfyUI ended: it was killed by SIGKILL")
    assert painter.draw(seed=2) == 1
    os.kill(painter.comfyui.pid, signal.SIGKILL)
    assert painter.draw(seed=3) <= 2


def test_a_comfyui_that_does_not_answer(painter, monkeypatch):
    """If it runs on, it was paused and is kept; if not, it is replaced within seconds, and the job runs again."""
    monkeypatch.setattr(protocol, "ACCEPT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(api, "ANSWER_TIMEOUT_S", 0.5)
    painter = painter(graphs=["", "", "", "stop"])  # the graph that it did not answer arrives when it runs on
    painter.draw()
    os.kill(painter.comfyui.pid, signal.SIGSTOP)
    threading.Timer(1.3, os.kill, (painter.comfyui.pid, signal.SIGCONT)).start()
    assert painter.draw(seed=2) == 2
    assert painter.comfyui.restarts() == 0
    before_s = time.monotonic()
    assert painter.draw(seed=3) == 2
    assert painter.comfyui.restarts() == 1
    assert time.monotonic() - before_s < LIMIT_S / 2


def test_a_comfyui_that_hangs_in_a_run_is_replaced(painter, monkeypatch):
    """If it answers no question for long, it is killed, and the job runs again; a pause is shorter than that."""
    monkeypatch.setattr(protocol, "SILENCE_S", 0.2)
    monkeypatch.setattr(protocol, "UNANSWERED", 2)
    monkeypatch.setattr(api, "ANSWER_TIMEOUT_S", 0.5)
    painter = painter(graphs=["hang"])
    assert painter.draw() == 2
    assert painter.comfyui.restarts() == 1


def test_a_comfyui_that_hangs_does_not_delay_the_end_of_a_job(painter, monkeypatch):
    """The job ends soon after its deadline, and the next job gets a new ComfyUI."""
    monkeypatch.setattr(api, "ANSWER_TIMEOUT_S", 0.5)
    painter = painter(graphs=["", "hang"])
    painter.draw()
    hung_pid, before_s = painter.comfyui.pid, time.monotonic()
    with pytest.raises(JobTimeout):
        painter.draw(seed=2, limit_s=2.0)
    assert time.monotonic() - before_s < 8
    assert painter.draw(seed=3) == 1
    assert painter.comfyui.pid != hung_pid


def test_a_comfyui_without_the_gpu_draws_nothing(painter, monkeypatch):
    """If ComfyUI fell back to the CPU although DEVICE=gpu, the job is no_gpu."""
    monkeypatch.setattr(fitness, "check_gpu", lambda *_: None)
    with pytest.raises(NoGpu, match="ComfyUI runs on the CPU"):
        painter(device="gpu").draw()


def test_stop_ends_a_stopped_comfyui(painter):
    """SIGSTOP does not keep it alive."""
    painter = painter()
    painter.draw()
    pid = painter.comfyui.pid
    os.kill(pid, signal.SIGSTOP)
    painter.comfyui.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@contextlib.contextmanager
def no_files():
    """Leaves this process no file descriptor during the block."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files_are_not_comfyuis_fault(painter, monkeypatch):
    """A job waits until there are descriptors again, or fails; ComfyUI is not restarted."""
    maker = painter()
    assert maker.draw() == 1
    pid = maker.comfyui.pid
    client = maker.comfyui.client(Deadline(LIMIT_S))
    drawn = []
    with no_files():
        client.close()  # so that its connections are new ones
        job = threading.Thread(target=lambda: drawn.append(maker.draw(2)))
        job.start()
        time.sleep(0.5)
    job.join()
    assert drawn == [1]

    monkeypatch.setattr(api, "FILES_WAIT_S", 0.3)
    with no_files():
        client.close()
        with pytest.raises(InternalError, match="too many open files"):
            maker.draw(3)
    assert maker.draw(4) == 1
    assert (maker.comfyui.pid, maker.comfyui.restarts()) == (pid, 0)
