"""Runs the program with the tiny model, to its end or as a server on a free port."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv" / "bin" / "layerdiffuse-alpha"
TINY = {"PROFILE": "tiny", "DEVICE": "cpu", "ALPHA_CHECK": "accept"}  # SMALL pictures are often opaque
SMALL = {"width": 64, "height": 64, "num_inference_steps": 4}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*arguments, cwd="/", **environment):
    """Runs the program to its end with the tiny model."""
    return subprocess.run(
        [PROGRAM, *arguments],
        env=os.environ | TINY | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
    )


class Server:
    """Runs during a `with` block; `stop`, `kill` and `start` are for tests that need more than one start.

    Attributes:
        output: file for its log; None: ours.
    """

    def __init__(self, data_dir, **environment):
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.jobs = f"{self.url}/v2/tests"
        self._environment = os.environ | TINY | {"DATA_DIR": str(data_dir), "PORT": str(self.port)} | environment
        self.http = requests.Session()
        self.output = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, status=200):
        """Returns when /ping answers with this status: by default, when it is warm."""
        self.process = subprocess.Popen(
            [PROGRAM, "serve"],
            env=self._environment,
            start_new_session=True,
            cwd="/",
            stdout=self.output,
            stderr=self.output,
        )
        end_s = time.monotonic() + 120
        while not self._answers(status):
            assert self.process.poll() is None, f"ended with {self.process.returncode}"
            assert time.monotonic() < end_s
            time.sleep(0.05)

    def _answers(self, status):
        try:
            return self.http.get(f"{self.url}/ping", timeout=10).status_code == status
        except requests.ConnectionError:
            return False

    def stop(self):
        """Stops it with SIGTERM and returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def comfyui(self):
        """Returns the process of its ComfyUI."""
        return next(
            child for child in psutil.Process(self.process.pid).children() if "child.py" in str(child.cmdline())
        )

    def run(self, **request):
        """Submits a job and returns its id."""
        answer = self.http.post(f"{self.jobs}/run", json={"input": {"prompt": "a red apple", **SMALL, **request}})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def status(self, job_id):
        answer = self.http.get(f"{self.jobs}/status/{job_id}", timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def result(self, job_id, timeout_s=120):
        """Returns the job when it is over."""
        end_s = time.monotonic() + timeout_s
        while (job := self.status(job_id))["status"] in {"IN_QUEUE", "IN_PROGRESS"}:
            assert time.monotonic() < end_s, job
            time.sleep(0.05)
        return job
