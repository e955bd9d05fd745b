"""The whole setup: one at a time, one line per failure, a command that works from anywhere."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from installer import command, environment, launcher
from installer.__main__ import locked
from installer.errors import SetupError

HOLD = """
import subprocess, sys
from pathlib import Path
from installer.__main__ import locked
with locked(Path(sys.argv[1]), 1):
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    print(child.pid, flush=True)
    child.wait()
"""


def test_a_second_setup_waits_and_then_gives_up(tmp_path: Path) -> None:
    """While one setup holds the lock, another one does nothing and fails after its time limit."""
    expected = pytest.raises(SetupError, match=r"another setup still runs after 0\.3 s")
    with locked(tmp_path / "lock", 1), expected, locked(tmp_path / "lock", 0.3):
        pytest.fail("two setups at the same time")


def test_a_killed_setup_s_child_keeps_the_lock(tmp_path: Path, root: Path) -> None:
    """uv may outlive a setup that was killed; the next setup must not touch the folder before it has ended."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE, cwd=root)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    try:
        with pytest.raises(SetupError, match="another setup"), locked(tmp_path / "lock", 0.3):
            pytest.fail("the child still writes")
    finally:
        os.kill(child, signal.SIGKILL)
    with locked(tmp_path / "lock", 5):
        pass
    holder.stdout.close()


def test_a_program_that_hangs_is_stopped_with_its_children() -> None:
    """The time limit applies even if a child of the program keeps its output open."""
    started = time.monotonic()
    with pytest.raises(SetupError, match=r"sh was stopped after 0\.3 s"):
        command.run(["sh", "-c", "sleep 60 & sleep 60"], timeout_s=0.3)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "snapshot.json"), ("{}", "setup: snapshot.json: the document lacks the key comfyui")],
)
def test_an_expected_failure_is_one_line(root: Path, tmp_path: Path, text: str | None, message: str) -> None:
    """A folder without a valid snapshot.json is one line on stderr and exit status 1, no traceback."""
    if text is not None:
        (tmp_path / "snapshot.json").write_text(text)
    env = {**os.environ, "PYTHONPATH": str(root)}
    arguments = [sys.executable, "-m", "installer"]
    done = subprocess.run(arguments, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("setup: ")
    assert message in done.stderr


def test_the_command_runs_from_anywhere(tmp_path: Path, root: Path) -> None:
    """layerdiffuse-alpha runs this repository's handler from any folder, through a link, and after a move."""
    repo, moved = tmp_path / "repo", tmp_path / "moved repo"
    environment.create_empty(root / ".tools/bin/uv", repo / ".venv")
    (repo / "handler").mkdir()
    (repo / "handler/__main__.py").write_text("import sys\n\n\ndef main():\n    print(sys.argv[1:])\n    return 7\n")
    launcher.ensure(repo / ".venv")
    shutil.move(repo, moved)
    (tmp_path / "link").symlink_to(moved / ".venv/bin/layerdiffuse-alpha")
    for program in (moved / ".venv/bin/layerdiffuse-alpha", tmp_path / "link"):
        arguments = [program, "a b"]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (7, "['a b']\n")
