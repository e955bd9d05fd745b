"""Builds worker-tiny, starts it, sends jobs, and looks at what it leaves; with Docker, or with buildah instead.

With buildah, no registry is needed: the base is made by debootstrap. Both must be installed, and this must be root.
"""

import argparse
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import requests
from rich.console import Console
from rich.table import Table

from handler import image

ROOT = Path(__file__).resolve().parents[1]
NAME = "localhost/layerdiffuse-alpha-test"
BASE = "localhost/debian-bookworm"
REQUEST = {"prompt": "a red apple", "seed": 7}
SIZE = (128, 128)  # of the tiny model
WRITABLE = ("/tmp", "/data", "/proc", "/sys", "/dev", "/run", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")  # noqa: S108
FIRST_ANSWER_S = 20
STOP_S = 10
REBUILT_BYTES = 5_000_000
CHANGED = ROOT / "handler" / "__init__.py"

console = Console(highlight=False, soft_wrap=True)


class Failed(Exception):
    """The image does not do what it must."""


class Engine(Protocol):
    """What builds images and runs containers."""

    def build(self, context: Path) -> None:
        """Builds NAME from the folder."""

    def layers(self) -> list[tuple[str, int, str]]:
        """Returns digest, size in bytes and origin of each layer, the lowest first."""

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """Starts a new container with the image's own entry point and this command."""

    def inside(self, *command: str) -> str:
        """Returns what a command in the container prints, run as the container's user."""

    def stop(self) -> None:
        """Sends the stop signal."""

    def changed(self) -> list[str]:
        """Returns the files that the container has written."""

    def remove(self) -> None:
        """Removes the container."""


class Docker:
    """The docker command."""

    container = "layerdiffuse-alpha-test"

    def build(self, context: Path) -> None:
        _run("docker", "build", "--build-arg", "MODELS=tiny", "-t", NAME, str(context))

    def layers(self) -> list[tuple[str, int, str]]:
        digests = json.loads(_output("docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", NAME))
        history = _output(
            "docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", NAME
        )
        rows = [line.split("\t", 1) for line in reversed(history.splitlines())]
        filled = [(int(size), origin) for size, origin in rows if int(size) > 0]
        return [(digest, size, origin) for digest, (size, origin) in zip(digests, filled, strict=False)]

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        self.remove()
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        arguments = ["docker", "run", "--name", self.container, "--network", "host", *variables, NAME, *command]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)  # noqa: S603

    def inside(self, *command: str) -> str:
        return _output("docker", "exec", self.container, *command)

    def stop(self) -> None:
        _run("docker", "kill", "--signal", "TERM", self.container)

    def changed(self) -> list[str]:
        return [line.split(" ", 1)[1] for line in _output("docker", "diff", self.container).splitlines()]

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", self.container], capture_output=True, check=False)  # noqa: S603, S607


class Buildah:
    """buildah with chroot isolation, as root, for machines without an engine or a registry."""

    def __init__(self) -> None:
        os.environ |= {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}
        self._container = ""
        self._marker = 0.0

    def build(self, context: Path) -> None:
        self._make_base()
        shared = [part for path in _shared() for part in ("--volume", f"{path}:{path}:ro")]
        arguments = ["--format", "docker", "--layers", "--pull-never", *shared]
        arguments += ["--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", "MODELS=tiny"]
        _run("buildah", "bud", *arguments, "--tag", NAME, str(context))

    def layers(self) -> list[tuple[str, int, str]]:
        inspected = json.loads(_output("buildah", "inspect", "--type", "image", NAME))
        digests = inspected["OCIv1"]["rootfs"]["diff_ids"]
        origins = [step["created_by"] for step in inspected["OCIv1"]["history"] if not step.get("empty_layer")]
        with _folder() as folder:
            _run("buildah", "push", "--quiet", "--disable-compression", NAME, f"dir:{folder}")
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        sizes = [layer["size"] for layer in manifest["layers"]]
        return list(zip(digests, sizes, origins, strict=True))

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        self.remove()
        self._container = _output("buildah", "from", "--pull-never", NAME).strip()
        config = json.loads(_output("buildah", "inspect", self._container))["OCIv1"]["config"]
        time.sleep(1)  # so that what is written from now on is newer than the marker
        self._marker = time.time()
        variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        whole = [*config["Entrypoint"], *(command or config["Cmd"])]
        arguments = ["buildah", "run", *variables, self._container, "--", *whole]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)  # noqa: S603

    def inside(self, *command: str) -> str:
        return _output("buildah", "run", self._container, "--", *command)

    def stop(self) -> None:
        for pid in _output("pgrep", "-x", "tini").split():
            if Path(f"/proc/{pid}/root").readlink() != Path("/"):
                os.kill(int(pid), signal.SIGTERM)

    def changed(self) -> list[str]:
        root = Path(_output("buildah", "mount", self._container).strip())
        newer = ["find", str(root), "-xdev", "-type", "f", "-newermt", f"@{self._marker}"]
        return [f"/{Path(line).relative_to(root)}" for line in _output(*newer).splitlines()]

    def remove(self) -> None:
        if self._container:
            subprocess.run(["buildah", "rm", self._container], capture_output=True, check=False)  # noqa: S603, S607
            self._container = ""

    def _make_base(self) -> None:
        if _succeeds("buildah", "inspect", "--type", "image", BASE):
            return
        with _folder() as folder:
            packages = "--include=ca-certificates,python3"
            _run("debootstrap", "--variant=minbase", packages, "bookworm", str(folder / "root"))
            container = _output("buildah", "from", "scratch").strip()
            _run("buildah", "copy", "--quiet", container, str(folder / "root"), "/")
            _run("buildah", "commit", "--quiet", "--rm", container, BASE)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/image-test", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the image")
    options = parser.parse_args()
    engine: Engine = Docker() if _succeeds("docker", "info") else Buildah()
    try:
        _try_out(engine)
    except (Failed, subprocess.CalledProcessError, requests.RequestException) as exc:
        console.print(f"[red]image-test: {exc}[/]")
        return 1
    finally:
        engine.remove()
        if not options.keep:
            tool = "docker" if isinstance(engine, Docker) else "buildah"
            subprocess.run([tool, "rmi", NAME], capture_output=True, check=False)  # noqa: S603
    return 0


def _try_out(engine: Engine) -> None:
    with _folder() as folder:
        context = folder / "context"
        listed = _output("git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z")
        for name in filter(None, listed.split("\0")):
            place = context / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place)
        started_s = time.monotonic()
        engine.build(context)
        _report("built", f"{time.monotonic() - started_s:.0f} s")
        layers = engine.layers()
        _show(layers)
        _job_by_test_input(engine)
        _job_by_http(engine)
        changed = context / CHANGED.relative_to(ROOT)
        changed.write_text(changed.read_text("utf-8") + "# changed\n", "utf-8")
        started_s = time.monotonic()
        engine.build(context)
        seconds = time.monotonic() - started_s
    known = {digest for digest, *_ in layers}
    resent = sum(size for digest, size, _ in engine.layers() if digest not in known)
    _check(resent < REBUILT_BYTES, f"a change in handler/ is built in {seconds:.0f} s and sends {resent / 1e6:.2f} MB")


def _job_by_test_input(engine: Engine) -> None:
    container = engine.start("worker", "--test_input", json.dumps({"input": REQUEST}))
    printed, _ = container.communicate(timeout=120)
    _check(container.returncode == 0, f"--test_input exits with {container.returncode}")
    output = json.loads(printed.splitlines()[-1])["output"]
    _check_picture(base64.b64decode(output["image_base64"]), "through RunPod's SDK")


def _job_by_http(engine: Engine) -> None:
    started_s = time.monotonic()
    container = engine.start("serve", PORT="18000")
    url = "http://127.0.0.1:18000"
    while not _answers(f"{url}/ping"):
        if container.poll() is not None or time.monotonic() - started_s > 120:
            raise Failed("serve does not answer")
        time.sleep(0.1)
    job = requests.post(f"{url}/v2/test/runsync", json={"input": REQUEST}, timeout=120).json()
    seconds = time.monotonic() - started_s
    _check_picture(base64.b64decode(job["output"]["image_base64"]), "through HTTP")
    _check(seconds < FIRST_ANSWER_S, f"first answer {seconds:.1f} s after the start")
    _check(engine.inside("id", "-u").strip() == "1000", "user id 1000")
    engine.inside("python3", "/app/scripts/healthcheck")
    _report("healthcheck", "good")
    versions = engine.inside(
        "/app/.comfyui/venv/bin/python", "-c", "import xformers, torch; print(xformers.__version__)"
    )
    _report("xformers", versions.strip().splitlines()[-1])
    started_s = time.monotonic()
    engine.stop()
    try:
        container.wait(60)
    except subprocess.TimeoutExpired:
        raise Failed("does not end 60 s after SIGTERM") from None
    seconds = time.monotonic() - started_s
    _check(seconds < STOP_S, f"SIGTERM ends it in {seconds:.1f} s, exit status {container.returncode}")
    odd = [path for path in engine.changed() if not path.startswith(WRITABLE)]
    _check(not odd, f"nothing is written outside /tmp and /data {odd[:5] or ''}")


def _check_picture(png: bytes, way: str) -> None:
    image.check(png, *SIZE)
    _report("picture", f"{way}: RGBA, {SIZE[0]}x{SIZE[1]}, {len(png) / 1000:.0f} kB")


def _check(holds: bool, claim: str) -> None:
    if not holds:
        raise Failed(f"not so: {claim}")
    _report("so", claim)


def _report(subject: str, fact: str) -> None:
    console.print(f"[green]{subject:>12}[/]  {fact}")


def _show(layers: list[tuple[str, int, str]]) -> None:
    table = Table("MB", "layer", box=None)
    for _, size, origin in layers:
        table.add_row(f"{size / 1e6:10.1f}", origin.removeprefix("/bin/sh -c ").removeprefix("#(nop) ")[:90])
    table.add_row(f"{sum(size for _, size, _ in layers) / 1e6:10.1f}", "in all, not compressed")
    console.print(table)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _shared() -> list[str]:
    """Returns what a build needs of a machine that reaches the package indexes in its own way."""
    return [path for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="image-test-") as folder:
        yield Path(folder)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


def _succeeds(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
