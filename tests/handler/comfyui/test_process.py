import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from handler.comfyui import launch
from handler.comfyui.client import ComfyClient
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import ComfyUnavailable, JobCancelled, JobTimeout
from handler.settings import Settings


def wait_for_pid(process):
    end_s = time.monotonic() + 60
    while process.pid is None:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    return process.pid


@pytest.fixture
def installed(tmp_path):
    """Makes a process whose Python is the given shell script; ends it after the test."""
    made = []

    def make(script, **settings):
        python = tmp_path / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        made.append(ComfyProcess(Settings(comfyui_dir=tmp_path, device="cpu", **settings)))
        return made[-1]

    yield make
    for process in made:
        process.stop()


def test_a_missing_installation_is_an_error(tmp_path):
    """If ComfyUI's Python is missing, the error says so, without the path."""
    with pytest.raises(ComfyUnavailable, match="not installed") as caught:
        ComfyProcess(Settings(comfyui_dir=tmp_path)).client(Deadline(10))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("home", [None, "", "/", "/nowhere", "/proc"])
def test_any_user_will_do(as_another_user, home, monkeypatch):
    """A user id without an entry in /etc/passwd has a name, a writable HOME, and caches in the scratch folder."""
    folder, become = as_another_user
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    become()
    environment = launch._environment({}, folder)
    assert Path(environment["HOME"]) == folder
    assert Path(environment["TRITON_CACHE_DIR"]).is_relative_to(folder)
    is_root = os.getuid() == 0
    if is_root:
        os.seteuid(0)
    question = "import getpass, pathlib; print(getpass.getuser(), pathlib.Path.home())"
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    answer = subprocess.check_output(
        [python, "-c", question], env=environment, text=True, user=4242 if is_root else None, cwd="/"
    )
    assert answer.split() == ["worker", str(folder)]


def test_without_a_folder_for_temporary_files_the_error_says_so(installed, monkeypatch):
    """On a read-only root without a tmpfs, ComfyUI is installed; there is no place for its files."""

    def refuse(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(ComfyUnavailable, match="temporary files .* TMPDIR"):
        installed("exec sleep 60").client(Deadline(60))


def test_begin_starts_without_waiting(installed):
    """`begin` returns at once, and the job that comes next uses that start."""
    process = installed("exec sleep 60")
    process.begin()
    begun = wait_for_pid(process)
    with pytest.raises(JobTimeout):
        process.client(Deadline(0.1))
    assert process.pid == begun


def test_a_full_disk_is_an_error(installed, monkeypatch):
    """If the scratch folder cannot be created, the error has the system's reason."""

    def no_space(**_):
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", no_space)
    with pytest.raises(ComfyUnavailable, match="cannot be started: No space left on device$"):
        installed("exit 0").client(Deadline(10))


def test_a_start_that_never_ends_is_an_error_and_the_child_is_gone(installed):
    """Each start may take START_TIMEOUT_S; after three of them the error names the time."""
    process = installed("exec sleep 600", start_timeout_s=0.3)
    with pytest.raises(ComfyUnavailable, match=r"not ready after 0\.3 s"):
        process.client(Deadline(60))
    process.stop()
    assert process.pid is None


def test_a_start_that_outlasts_the_jobs_goes_on(installed):
    """Jobs with short deadlines time out one by one; the start still ends at its own deadline."""
    process = installed("exec sleep 600", start_timeout_s=0.7)
    for _ in range(2):
        with pytest.raises(JobTimeout):
            process.client(Deadline(0.2))
    with pytest.raises(ComfyUnavailable):
        process.client(Deadline(60))


def test_a_cancelled_job_does_not_wait_for_the_start(installed):
    """Cancelling while ComfyUI starts ends the wait; ComfyUI keeps starting for the next job."""
    process = installed("exec sleep 600")
    deadline = Deadline(60)
    deadline.cancel()
    with pytest.raises(JobCancelled):
        process.client(deadline)
    wait_for_pid(process)


def test_stop_ends_the_child_and_its_folder(installed, tmp_path):
    """After stop, the process and the scratch folder in its arguments are gone."""
    process = installed(f'echo "$@" > {tmp_path}/arguments; exec sleep 600')
    deadline = Deadline(2)
    with pytest.raises(Exception):  # noqa: B017, PT011 -- how the wait ends is not the point
        process.client(deadline)
    pid = process.pid
    arguments = (tmp_path / "arguments").read_text().split()
    scratch = arguments[arguments.index("--output-directory") + 1]
    assert os.path.isdir(scratch)  # noqa: PTH112
    process.stop()
    assert not os.path.exists(os.path.dirname(scratch))  # noqa: PTH110, PTH120
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_child_gets_no_secrets(installed, tmp_path, monkeypatch):
    """Variables with keys, tokens, secrets or passwords are not passed to ComfyUI."""
    process = installed(f"env > {tmp_path}/environment; exit 1")
    for name in ("RUNPOD_AI_API_KEY", "HF_TOKEN", "BUCKET_SECRET_ACCESS_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, "xyzzy")
    monkeypatch.setenv("HARMLESS", "plugh")
    with pytest.raises(ComfyUnavailable):
        process.client(Deadline(10))
    environment = (tmp_path / "environment").read_text()
    assert "xyzzy" not in environment
    assert "plugh" in environment
    assert "HF_HUB_OFFLINE=1" in environment


def test_the_child_writes_bytecode(installed, tmp_path, monkeypatch):
    """PYTHONDONTWRITEBYTECODE, which many machines set, does not slow down every start of ComfyUI."""
    process = installed(f"env > {tmp_path}/environment; exit 1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with pytest.raises(ComfyUnavailable):
        process.client(Deadline(10))
    assert "PYTHONDONTWRITEBYTECODE" not in (tmp_path / "environment").read_text()


def test_only_the_failed_comfyui_is_restarted(installed):
    """A second report of the same failure does not stop the ComfyUI that was started after the first."""
    process = installed("exec sleep 600")
    stale = ComfyClient("127.0.0.1:1")
    deadline = Deadline(0.3)
    with pytest.raises(Exception):  # noqa: B017, PT011
        process.client(deadline)
    pid = process.pid
    process.restart(stale, "reported twice")
    assert process.pid == pid
