"""Builds images and runs containers, with Docker or with buildah, for tools/image_test.py."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tools.surroundings import AS_BUILT, Surroundings

NAME = "localhost/layerdiffuse-alpha-test"
LABEL = "org.opencontainers.image.title=layerdiffuse-alpha"  # of the Dockerfile
BASE = "localhost/debian-bookworm"  # buildah's base image, made if it does not exist
MODELS = {
    "worker": "sdxl",
    "worker-patch": "patch",
    "worker-tiny": "tiny",
    "worker-slim": "none",
}  # as in the bake file, which buildah cannot read
SMALL_BYTES = 1_000_000  # maximum size of a manifest or config; layers of that size are read for nothing
STOP_S = 60
WITHOUT_HOME = ("env", "-u", "HOME")

Layers = list[tuple[str, int, str]]


class Engine(Protocol):
    """Builds images and runs containers."""

    has_processes_of_its_own: bool
    can_be_read_only: bool

    def build(self, context: Path, target: str, **arguments: str) -> None:
        """Builds NAME from the folder as the bake file describes the target, with these build arguments changed."""

    def layers(self) -> Layers:
        """Returns digest, size in bytes and origin of each layer, from the lowest to the highest."""

    def start(self, *command: str, surroundings: Surroundings = AS_BUILT) -> "subprocess.Popen[str]":
        """Starts a new container with the image's own entry point and this command."""

    def inside(self, *command: str) -> str:
        """Runs a command in the container, as its user, and returns what it prints."""

    def stop(self) -> None:
        """Sends the stop signal."""

    def changed(self) -> list[str]:
        """Returns the files that the container has written."""

    def remove(self) -> None:
        """Removes the container."""

    def remove_image(self) -> None:
        """Removes the images that were built."""


class Docker:
    """The docker command with its plugin buildx."""

    has_processes_of_its_own = True
    can_be_read_only = True
    container = "layerdiffuse-alpha-test"

    def __init__(self, base: str | None) -> None:
        self._base = base

    def build(self, context: Path, target: str, **arguments: str) -> None:
        baked = json.loads(output("docker", "buildx", "bake", "--print", target, cwd=context))["target"][target]
        arguments = {**baked["args"], **arguments, **({"BASE_IMAGE": self._base} if self._base else {})}
        options = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        options += [f"--secret={secret}" for secret in baked.get("secret", [])]
        options += [f"--platform={platform}" for platform in baked["platforms"]]
        # The host's network, because the mirror runs on this machine.
        _run("docker", "buildx", "build", "--load", "--network", "host", *options, "--tag", NAME, str(context))

    def layers(self) -> Layers:
        sizes, small = {}, {}
        with (
            subprocess.Popen(["docker", "save", NAME], stdout=subprocess.PIPE) as saving,  # noqa: S603, S607
            tarfile.open(fileobj=saving.stdout, mode="r|") as archive,
        ):
            for member in archive:
                sizes[member.name] = member.size
                if member.size <= SMALL_BYTES and (file := archive.extractfile(member)):
                    small[member.name] = file.read()
        manifest = json.loads(small["manifest.json"])[0]
        return _layers(json.loads(small[manifest["Config"]]), [sizes[name] for name in manifest["Layers"]])

    def start(self, *command: str, surroundings: Surroundings = AS_BUILT) -> "subprocess.Popen[str]":
        self.remove()
        options = ["--name", self.container, "--network", "host", *surroundings.options()]
        options += ["--read-only"] if surroundings.tmpfs else []
        options += [f"--tmpfs={path}:size={size}" for path, size in surroundings.tmpfs.items()]
        if not surroundings.has_home:
            config = json.loads(output("docker", "inspect", "--format", "{{json .Config}}", NAME))
            options += ["--entrypoint", WITHOUT_HOME[0]]
            command = (*WITHOUT_HOME[1:], *config["Entrypoint"], *(command or config["Cmd"]))
        return _started(["docker", "run", *options, NAME, *command])

    def inside(self, *command: str) -> str:
        return output("docker", "exec", self.container, *command)

    def stop(self) -> None:
        _run("docker", "kill", "--signal", "TERM", self.container)

    def changed(self) -> list[str]:
        return [line.split(" ", 1)[1] for line in output("docker", "diff", self.container).splitlines()]

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", self.container], capture_output=True, check=False)  # noqa: S603, S607

    def remove_image(self) -> None:
        subprocess.run(["docker", "rmi", NAME], capture_output=True, check=False)  # noqa: S603, S607
        # Those before it have lost their name to it.
        prune = ["docker", "image", "prune", "--force", "--filter", f"label={LABEL}"]
        subprocess.run(prune, capture_output=True, check=False)  # noqa: S603


class Buildah:
    """buildah with chroot isolation, as root, for machines without Docker or a registry."""

    has_processes_of_its_own = False
    can_be_read_only = False

    def __init__(self) -> None:
        os.environ |= {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}
        self._container = ""
        self._process: subprocess.Popen[str] | None = None
        self._marker = 0.0

    def build(self, context: Path, target: str, **arguments: str) -> None:
        self._make_base()
        options = [part for path in _shared() for part in ("--volume", f"{path}:{path}:ro")]
        arguments = {"MODELS": MODELS[target], **arguments, "BASE_IMAGE": BASE}
        options += [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        _run("buildah", "bud", "--format", "docker", "--layers", "--pull-never", *options, "--tag", NAME, str(context))

    def layers(self) -> Layers:
        inspected = json.loads(output("buildah", "inspect", "--type", "image", NAME))
        with folder() as place:
            _run("buildah", "push", "--quiet", "--disable-compression", NAME, f"dir:{place}")
            manifest = json.loads((place / "manifest.json").read_text("utf-8"))
        return _layers(inspected["OCIv1"], [layer["size"] for layer in manifest["layers"]])

    def start(self, *command: str, surroundings: Surroundings = AS_BUILT) -> "subprocess.Popen[str]":
        self.remove()
        self._container = output("buildah", "from", "--pull-never", NAME).strip()
        config = json.loads(output("buildah", "inspect", self._container))["OCIv1"]["config"]
        time.sleep(1)  # so that files written from now on are newer than the marker
        self._marker = time.time()
        whole = [*config["Entrypoint"], *(command or config["Cmd"])]
        whole = whole if surroundings.has_home else [*WITHOUT_HOME, *whole]
        self._process = _started(["buildah", "run", *surroundings.options(), self._container, "--", *whole])
        return self._process

    def inside(self, *command: str) -> str:
        return output("buildah", "run", self._container, "--", *command)

    def stop(self) -> None:
        for pid in output("pgrep", "-x", "tini").split():
            if Path(f"/proc/{pid}/root").readlink() != Path("/"):
                os.kill(int(pid), signal.SIGTERM)

    def changed(self) -> list[str]:
        root = Path(output("buildah", "mount", self._container).strip())
        newer = ["find", str(root), "-xdev", "-type", "f", "-newermt", f"@{self._marker}"]
        return [f"/{Path(line).relative_to(root)}" for line in output(*newer).splitlines()]

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:  # `buildah rm` would leave it running
            self.stop()
            self._process.wait(STOP_S)
        if self._container:
            subprocess.run(["buildah", "rm", self._container], capture_output=True, check=False)  # noqa: S603, S607
            self._container = ""

    def remove_image(self) -> None:
        subprocess.run(["buildah", "rmi", NAME], capture_output=True, check=False)  # noqa: S603, S607

    def _make_base(self) -> None:
        if succeeds("buildah", "inspect", "--type", "image", BASE):
            return
        with folder() as place:
            packages = "--include=ca-certificates,python3"
            _run("debootstrap", "--variant=minbase", packages, "bookworm", str(place / "root"))
            container = output("buildah", "from", "scratch").strip()
            _run("buildah", "copy", "--quiet", container, str(place / "root"), "/")
            _run("buildah", "commit", "--quiet", "--rm", container, BASE)


def engine(base: str | None) -> Engine:
    """Returns Docker if it runs, else buildah; `base` is the base image with Docker."""
    return Docker(base) if succeeds("docker", "info") else Buildah()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Yields a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="image-test-") as place:
        yield Path(place)


def output(*command: str, cwd: Path | None = None) -> str:
    """Returns what the command prints; raises CalledProcessError if it fails."""
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


def succeeds(*command: str) -> bool:
    """Returns whether the command is installed and ends with status 0."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


def _layers(config: dict[str, Any], sizes: list[int]) -> Layers:
    origins = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
    return list(zip(config["rootfs"]["diff_ids"], sizes, origins, strict=True))


def _shared() -> list[str]:
    """Returns the files that a build needs if this machine reaches package indexes through a proxy of its own."""
    return [path for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]


def _started(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603
