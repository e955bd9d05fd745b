"""A worker that cannot draw takes no job: the real SDK against the control plane, ComfyUI as a child that fails."""

import os
import subprocess

import pytest
from control_plane import ControlPlane
from server import PROGRAM, TINY

NO_DRIVER = """
echo 'Traceback (most recent call last):'
echo '  File "/opt/comfyui/main.py", line 190, in <module>'
echo '    import execution'
echo 'RuntimeError: Found no NVIDIA driver on your system, see /opt/comfyui/README.md'
exit 1
"""


@pytest.fixture
def fails_with(tmp_path):
    """Makes a COMFYUI_DIR whose Python is the shell script."""

    def make(script):
        python = tmp_path / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\n{script}")
        python.chmod(0o755)
        return str(tmp_path)

    return make


def test_a_worker_that_cannot_start_takes_no_job(fails_with):
    """If ComfyUI dies at its start, the worker exits with 1, logs the cause last, reports it, and four jobs wait."""
    with ControlPlane() as runpod:
        for number in range(4):
            runpod.submit(f"waiting-{number}", {"prompt": "x", "width": 64, "height": 64})
        environment = os.environ | TINY | runpod.environment | {"COMFYUI_DIR": fails_with(NO_DRIVER)}
        done = subprocess.run(
            [PROGRAM, "worker"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
        )
    cause = "ComfyUI ended while starting: RuntimeError: Found no NVIDIA driver on your system, see README.md"
    assert done.returncode == 1
    assert cause in done.stdout.splitlines()[-1]
    assert runpod.taken == []
    assert runpod.results.empty()
    (ping,) = runpod.pings
    assert (ping["status"], ping["check"]) == ("unhealthy", "start")
    assert cause in ping["reason"]
