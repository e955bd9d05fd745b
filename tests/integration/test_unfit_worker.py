"""A worker that cannot draw, or no longer can, takes no job and leaves nothing behind.

The real SDK against the control plane; ComfyUI is a child that speaks its protocol and fails as planned.
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import time
from pathlib import Path

import fake_comfyui
import pytest
from control_plane import ControlPlane
from server import PROGRAM, ROOT, TINY

SMALL = {"prompt": "x", "width": 64, "height": 64}
FROZEN_S = 12
SDK_STARTS = "Starting Serverless Worker"
CUDA = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
NODE = "ValueError: an odd number"
NO_DRIVER = "ComfyUI ended while starting: RuntimeError: Found no NVIDIA driver on your system"


class Worker:
    """The worker on a fake ComfyUI with a plan; `output` is a file."""

    def __init__(self, runpod, folder, warm_up="off", models=None, **plan):
        self.output = folder / "output"
        fake_comfyui.install(folder / "comfyui", **plan)
        own = {"COMFYUI_DIR": str(folder / "comfyui"), "WARM_UP": warm_up, "TMPDIR": str(folder)}
        own["PYTHONUNBUFFERED"] = "1"  # what the SDK prints is in order
        own |= {"MODELS_DIR": str(models)} if models else {}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [PROGRAM, "worker"],
                env=os.environ | TINY | runpod.environment | own,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
            )

    @property
    def last_line(self):
        return self.output.read_text().splitlines()[-1]

    def family(self):
        """Returns the processes that it has started: ComfyUI and the SDK's heartbeat, once both are there."""
        until(lambda: SDK_STARTS in self.output.read_text(), 30)  # its import also starts processes, for a moment
        until(lambda: len(children(self.process.pid)) >= 2, 30)
        return children(self.process.pid)


@pytest.fixture
def worker(tmp_path):
    """Makes a worker: `worker(runpod, graphs=[...])`."""
    made = []

    def make(runpod, **plan):
        made.append(Worker(runpod, tmp_path, **plan))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait()


def children(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(child) for child in found]


def is_comfyui(pid):
    return b"--port" in Path(f"/proc/{pid}/cmdline").read_bytes()


def until(holds, limit_s=10):
    end_s = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("check", "plan", "cause"),
    [
        ("start", {"starts": ["die"] * 9}, NO_DRIVER),
        ("warm_up", {"graphs": [NODE] * 9}, f"KSampler failed with {NODE}"),
    ],
)
def test_a_worker_that_cannot_draw_takes_no_job(worker, check, plan, cause):
    """Four jobs wait, and a check fails: exit status 1, and the cause is the last log line and reported."""
    with ControlPlane() as runpod:
        for number in range(4):
            runpod.submit(f"waiting-{number}", SMALL)
        unfit = worker(runpod, warm_up="full", **plan)
        assert unfit.process.wait(60) == 1
    assert cause in unfit.last_line
    assert runpod.taken == []
    assert runpod.results.empty()
    (ping,) = runpod.pings
    assert (ping["status"], ping["check"]) == ("unhealthy", check)
    assert cause in ping["reason"]


def test_a_worker_whose_gpu_breaks_fails_one_job(worker):
    """A CUDA error that a restart does not cure: that job fails, RunPod is asked for another worker, exit status 1."""
    with ControlPlane() as runpod:
        broken = worker(runpod, graphs=["", CUDA, CUDA])
        for number in range(4):
            runpod.submit(f"job-{number}", SMALL)
        job_id, posted, _ = runpod.result()
        assert (job_id, "output" in posted) == ("job-0", True)
        job_id, posted, _ = runpod.result()
        assert (job_id, posted["stopPod"]) == ("job-1", True)
        assert "an illegal memory access was encountered" in posted["error"]
        assert broken.process.wait(30) == 1
        with pytest.raises(queue.Empty):
            runpod.result(0)
    assert "an illegal memory access was encountered" in broken.last_line
    assert runpod.taken == ["job-0", "job-1"]


def test_a_worker_whose_weights_vanish_fails_one_job(worker, tmp_path):
    """A weight file is deleted between jobs: the next job names it, RunPod is asked for another worker, status 1."""
    models = shutil.copytree(ROOT / "models", tmp_path / "models")
    with ControlPlane() as runpod:
        leaving = worker(runpod, models=models)
        runpod.submit("before", SMALL)
        job_id, posted, _ = runpod.result()
        assert (job_id, "output" in posted) == ("before", True)
        (models / "checkpoints" / "tiny_sdxl.safetensors").unlink()
        for number in range(3):
            runpod.submit(f"job-{number}", SMALL)
        job_id, posted, _ = runpod.result()
        assert (job_id, posted["stopPod"]) == ("job-0", True)
        assert posted["error"] == "model_missing: models/checkpoints/tiny_sdxl.safetensors missing"
        assert leaving.process.wait(30) == 1
    assert "models/checkpoints/tiny_sdxl.safetensors missing" in leaving.last_line
    assert runpod.taken == ["before", "job-0"]


def test_an_idle_worker_whose_comfyui_cannot_start_again_ends(worker):
    """ComfyUI is killed while no job is there, and then dies at each start: exit status 1 with the cause.

    It was first started before the SDK was imported, which takes seconds.
    """
    with ControlPlane() as runpod:
        idle = worker(runpod, starts=["", "die", "die", "die"])
        (comfyui,) = filter(is_comfyui, idle.family())
        os.kill(comfyui, signal.SIGKILL)
        assert idle.process.wait(30) == 1
    assert NO_DRIVER in idle.last_line
    assert runpod.taken == []
    output = idle.output.read_text()
    assert output.index("ComfyUI starting") < output.index(SDK_STARTS)


@pytest.mark.soak
def test_a_suspended_machine_is_no_crash(worker):
    """Worker and ComfyUI are frozen for longer than anything may take, idle and in a run, and nothing is restarted."""
    with ControlPlane() as runpod:
        frozen = worker(runpod, graphs=["", "", "slow"])
        (comfyui,) = filter(is_comfyui, frozen.family())
        runpod.submit("warm", SMALL)
        runpod.result()
        for job_id, running_s in (("after", 0.0), ("during", 2.0)):
            if running_s:
                runpod.submit(job_id, SMALL)
                time.sleep(running_s)
            for pid in (comfyui, frozen.process.pid):
                os.kill(pid, signal.SIGSTOP)
            time.sleep(FROZEN_S)
            for pid in (frozen.process.pid, comfyui):
                os.kill(pid, signal.SIGCONT)
            if not running_s:
                runpod.submit(job_id, SMALL)
            found, posted, _ = runpod.result()
            assert (found, json.loads(posted["output"]["info"])["attempts"]) == (job_id, 1)
        assert [pid for pid in frozen.family() if is_comfyui(pid)] == [comfyui]


def polling(runpod, worker):
    """Returns a worker that is ready and waits for a job."""
    ready = worker(runpod)
    ready.family()
    time.sleep(1)
    return ready


def test_an_idle_worker_stops_at_once_and_takes_no_job(worker):
    """SIGTERM while RunPod still thinks about the answer to a poll: exit status 0, and a later job is not taken."""
    with ControlPlane() as runpod:
        runpod.poll_s = 30
        idle = polling(runpod, worker)
        started_s = time.monotonic()
        idle.process.terminate()
        time.sleep(0.3)
        runpod.submit("late", SMALL)
        assert idle.process.wait(40) == 0
        assert time.monotonic() - started_s < 2
    assert runpod.taken == []


def test_a_job_that_is_just_being_sent_at_a_stop_is_run(worker):
    """SIGTERM when RunPod has sent the headers of a job: it is run, and its result posted."""
    with ControlPlane() as runpod:
        runpod.body_after_s = 1.0
        stopped = polling(runpod, worker)
        runpod.submit("slipped", SMALL)
        until(lambda: runpod.taken)
        time.sleep(0.3)
        stopped.process.terminate()
        assert stopped.process.wait(40) == 0
        job_id, posted, _ = runpod.result(0)
    assert (job_id, posted["output"]["status"]) == ("slipped", "success")


def test_nothing_outlives_a_killed_worker(worker, tmp_path):
    """SIGKILL of the worker ends ComfyUI, although it is stopped, and the heartbeat; no files are left."""
    with ControlPlane() as runpod:
        killed = worker(runpod)
        family = killed.family()
        (comfyui,) = filter(is_comfyui, family)
        assert list(tmp_path.glob("comfyui-*"))
        os.kill(comfyui, signal.SIGSTOP)
        killed.process.kill()
        until(lambda: all(map(is_gone, family)))
        until(lambda: not list(tmp_path.glob("comfyui-*")))
