"""The commands `models fetch | verify | list`."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner
from weight_server import CONTENT, HALF, NAME, OTHER, SHA256, SIZE, files, leave_part, line, stalls, status

from handler.cli import models
from handler.settings import ROOT


@pytest.fixture
def run(tmp_path, server, monkeypatch):
    """Runs `models …` on a list of one file in sdxl and one in extra."""
    for name in ("MODELS_DIR", "WEIGHTS_DIRS", "HF_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower().removesuffix("_dir")))
    monkeypatch.setenv("MODELS_FILE", str(tmp_path / "models.txt"))
    listed = f"[sdxl]\n{line(size=SIZE, url=server.url())}\n[extra]\n"
    (tmp_path / "models.txt").write_text(listed + line(size="~290000", path="loras/b", url=server.url()))
    return lambda *arguments: CliRunner().invoke(models.app, arguments)


def test_fetch_then_verify(run, tmp_path):
    """The section sdxl is the default; both exit with 0."""
    for command, said in (("fetch", "present"), ("verify", "ok")):
        result = run(command)
        assert (result.exit_code, result.stdout) == (0, f"models/{NAME}: {said}\n")
    assert files(tmp_path / "models") == [NAME]


def test_sections_can_be_named(run, tmp_path):
    """Several in one call."""
    assert run("fetch", "sdxl", "extra").exit_code == 0
    assert files(tmp_path / "models") == [NAME, "loras/b"]
    assert run("verify", "extra").stdout == "models/loras/b: ok\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "missing"),
        (CONTENT[:-1], "size is 299999 bytes, expected 300000"),
        (OTHER, f"sha256 is {hashlib.sha256(OTHER).hexdigest()}, expected {SHA256}"),
    ],
)
def test_verify_finds_a_wrong_file(run, server, tmp_path, content, said):
    """It exits with 1 and the reason, makes no request, and leaves the file as it is."""
    path = tmp_path / "models" / NAME
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    result = run("verify")
    assert (result.exit_code, result.stdout) == (1, f"models/{NAME}: failed: {said}\n")
    assert server.seen == []
    assert content is None or path.read_bytes() == content


def test_list_shows_the_state_of_each_file(run, server, tmp_path):
    """All sections, judged by sizes, without a request."""

    def states():
        return [line.split("  ", 1)[1].strip().split("  ")[0] for line in run("list").stdout.splitlines()]

    assert states() == ["missing", "missing"]
    leave_part(tmp_path / "models", CONTENT[:HALF])
    assert states() == ["50 % downloaded", "missing"]
    (tmp_path / "models" / NAME).write_bytes(b"x")
    assert states() == ["wrong size", "missing"]
    (tmp_path / "models" / NAME).write_bytes(CONTENT)
    assert states() == ["present", "missing"]
    assert server.seen == []


def test_a_failed_download_exits_with_1(run, server):
    """The line has the reason."""
    server.plan = [status(404)]
    result = run("fetch")
    assert (result.exit_code, result.stdout) == (1, f"models/{NAME}: failed: 127.0.0.1: HTTP 404 Not Found\n")


def test_too_little_disk_space_exits_with_1(run, monkeypatch):
    """The message has the free space."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5))
    result = run("fetch")
    assert (result.exit_code, "only 5 are free" in result.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [("fetch", "tiny"), ("verify", "tiny"), ("fetch", "--fast"), ("remove",)])
def test_wrong_usage_exits_with_2(run, arguments):
    """An unknown section, option or command."""
    assert run(*arguments).exit_code == 2


def test_a_faulty_list_exits_with_2(run, tmp_path):
    """The message names the line."""
    (tmp_path / "models.txt").write_text("[sdxl]\nx\n")
    result = run("list")
    assert (result.exit_code, "line 2" in result.stderr) == (2, True)


def test_the_image_s_weight_stage_copies_all_that_models_needs(tmp_path):
    """The command runs in a folder that has only what the Dockerfile copies there; the files are missing."""
    stage = re.search(r"AS weights\n(.*?)^FROM ", (ROOT / "Dockerfile").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    for sources, target in re.findall(r"^COPY (.+) (\S+)$", stage[1], re.MULTILINE):
        for source in map(ROOT.joinpath, sources.split()):
            copy = tmp_path / target / (source.name if target.endswith("/") else "")
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "[!t]*.safetensors"))
            else:
                shutil.copy(source, copy)
    command = [sys.executable, "-m", "handler.cli.models", "verify", "sdxl"]
    environment = {"PATH": os.environ["PATH"], "WEIGHTS_DIRS": "/nowhere", "HF_CACHE_DIR": "/nowhere"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.count("failed: missing")) == (1, 3), result.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_download_resumes(run, server, tmp_path, signum):
    """After Ctrl-C the program ends at once, although the server stalls. The next call requests only the rest."""
    server.plan = [stalls]
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from handler.cli.models import app; app(['fetch'])"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    part = tmp_path / "models" / f"{NAME}.part"
    end_s = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size >= 90_000) and time.monotonic() < end_s:
        time.sleep(0.02)
    process.send_signal(signum)
    try:
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    size_bytes = part.stat().st_size
    assert size_bytes > 0
    assert part.read_bytes() == CONTENT[:size_bytes]
    assert run("fetch").exit_code == 0
    assert server.ranges() == [None, f"bytes={size_bytes}-"]
