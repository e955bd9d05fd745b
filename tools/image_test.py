"""Builds the three images, starts them, sends jobs and checks what they write, with Docker or with buildah.

With buildah, no registry is needed, because debootstrap makes the base image. Both must be installed, and this program
must run as root.

The SDXL image downloads its weights from a local mirror, which serves the tiny model's files under SDXL's names. So
everything except the weights themselves is tested.
"""

import argparse
import base64
import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import requests
from rich.console import Console
from rich.table import Table

from handler.job.png import check_png
from handler.weights import manifest

ROOT = Path(__file__).resolve().parents[1]
NAME = "localhost/layerdiffuse-alpha-test"
BASE = "localhost/debian-bookworm"  # buildah's base image, made if it does not exist
REQUEST = {"prompt": "a red apple", "seed": 7}
SIZE = (128, 128)  # of the tiny model
SDXL_SIZE = (512, 512)  # the smallest of the SDXL profile
SDXL_REQUEST = {**REQUEST, "width": SDXL_SIZE[0], "height": SDXL_SIZE[1], "num_inference_steps": 4}
STAND_INS = {
    "checkpoints/sd_xl_base_1.0.safetensors": "checkpoints/tiny_sdxl.safetensors",
    "layer_model/layer_xl_transparent_attn.safetensors": "layer_model/tiny_transparent_attn.safetensors",
    "layer_model/vae_transparent_decoder.safetensors": "layer_model/tiny_transparent_decoder.safetensors",
}
MODELS = {
    "worker": "sdxl",
    "worker-tiny": "tiny",
    "worker-slim": "none",
}  # as in the bake file, which buildah cannot read
VOLUME = "/runpod-volume/models"
WRITABLE = ("/tmp", "/data", "/proc", "/sys", "/dev", "/run", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")  # noqa: S108
FIRST_ANSWER_S = 20
STOP_S = 10
REBUILT_BYTES = 5_000_000
OTHER_WEIGHTS_BYTES = 250_000_000  # the worker's own environment, a layer above the weights
CHANGED = Path("handler", "__init__.py")
SMALL_BYTES = 1_000_000  # maximum size of a manifest or config; layers of that size are read for nothing

Layers = list[tuple[str, int, str]]

console = Console(highlight=False, soft_wrap=True)


class Failed(Exception):
    """A check failed."""


class Engine(Protocol):
    """Builds images and runs containers."""

    has_processes_of_its_own: bool

    def build(self, context: Path, target: str, **arguments: str) -> None:
        """Builds NAME from the folder as the bake file describes the target, with these build arguments changed."""

    def layers(self) -> Layers:
        """Returns digest, size in bytes and origin of each layer, from the lowest to the highest."""

    def start(self, *command: str, volume: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
        """Starts a new container with the image's own entry point and this command; the volume has weights."""

    def inside(self, *command: str) -> str:
        """Runs a command in the container, as its user, and returns what it prints."""

    def stop(self) -> None:
        """Sends the stop signal."""

    def changed(self) -> list[str]:
        """Returns the files that the container has written."""

    def remove(self) -> None:
        """Removes the container."""


class Docker:
    """The docker command with its plugin buildx."""

    has_processes_of_its_own = True
    container = "layerdiffuse-alpha-test"

    def __init__(self, base: str | None) -> None:
        self._base = base

    def build(self, context: Path, target: str, **arguments: str) -> None:
        baked = json.loads(_output("docker", "buildx", "bake", "--print", target, cwd=context))["target"][target]
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

    def start(self, *command: str, volume: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
        self.remove()
        arguments = ["docker", "run", "--name", self.container, "--network", "host"]
        return _started([*arguments, *_run_options(volume, environment), NAME, *command])

    def inside(self, *command: str) -> str:
        return _output("docker", "exec", self.container, *command)

    def stop(self) -> None:
        _run("docker", "kill", "--signal", "TERM", self.container)

    def changed(self) -> list[str]:
        return [line.split(" ", 1)[1] for line in _output("docker", "diff", self.container).splitlines()]

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", self.container], capture_output=True, check=False)  # noqa: S603, S607


class Buildah:
    """buildah with chroot isolation, as root, for machines without Docker or a registry."""

    has_processes_of_its_own = False

    def __init__(self) -> None:
        os.environ |= {"STORAGE_DRIVER": "overlay", "BUILDAH_ISOLATION": "chroot"}
        self._container = ""
        self._marker = 0.0

    def build(self, context: Path, target: str, **arguments: str) -> None:
        self._make_base()
        options = [part for path in _shared() for part in ("--volume", f"{path}:{path}:ro")]
        arguments = {"MODELS": MODELS[target], **arguments, "BASE_IMAGE": BASE}
        options += [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        _run("buildah", "bud", "--format", "docker", "--layers", "--pull-never", *options, "--tag", NAME, str(context))

    def layers(self) -> Layers:
        inspected = json.loads(_output("buildah", "inspect", "--type", "image", NAME))
        with _folder() as folder:
            _run("buildah", "push", "--quiet", "--disable-compression", NAME, f"dir:{folder}")
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        return _layers(inspected["OCIv1"], [layer["size"] for layer in manifest["layers"]])

    def start(self, *command: str, volume: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
        self.remove()
        self._container = _output("buildah", "from", "--pull-never", NAME).strip()
        config = json.loads(_output("buildah", "inspect", self._container))["OCIv1"]["config"]
        time.sleep(1)  # so that files written from now on are newer than the marker
        self._marker = time.time()
        whole = [*config["Entrypoint"], *(command or config["Cmd"])]
        return _started(["buildah", "run", *_run_options(volume, environment), self._container, "--", *whole])

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
    parser.add_argument("--keep", action="store_true", help="keep the last image")
    parser.add_argument("--base", metavar="IMAGE", help="base image instead of debian:bookworm-slim, with Docker only")
    options = parser.parse_args()
    engine: Engine = Docker(options.base) if _succeeds("docker", "info") else Buildah()
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
        layers = _try_tiny(engine, context)
        _try_slim(engine, context, layers)
        _try_sdxl(engine, context, folder / "mirror")


def _try_tiny(engine: Engine, context: Path) -> Layers:
    _build(engine, context, "worker-tiny")
    layers = engine.layers()
    _show(layers)
    _job_by_test_input(engine, REQUEST, SIZE)
    _job_by_http(engine)
    with (context / CHANGED).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    _build(engine, context, "worker-tiny")
    _check_sent(engine, layers, REBUILT_BYTES, "a change in handler/")
    return layers


def _try_slim(engine: Engine, context: Path, layers: Layers) -> None:
    _build(engine, context, "worker-slim")
    _check_sent(engine, layers, OTHER_WEIGHTS_BYTES, "the image without weights, on top of the tiny one,")
    _job_by_test_input(engine, REQUEST, SIZE, volume=ROOT / "models")


def _try_sdxl(engine: Engine, context: Path, mirror: Path) -> None:
    entries = {str(entry.path): entry for entry in manifest.read(ROOT / "models.txt")}
    lines = ["[sdxl]"]
    for path, stand_in in STAND_INS.items():
        url = entries[path].urls[0]
        place = mirror / url.removeprefix("https://huggingface.co/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / "models" / stand_in, place)
        lines.append(f"{hashlib.sha256(place.read_bytes()).hexdigest()} {place.stat().st_size} {path} {url}")
    (context / "models.txt").write_text("\n".join(lines), "utf-8")
    with _served(mirror) as url:
        _build(engine, context, "worker", HF_ENDPOINT=url)
    # The stand-ins are the tiny model, whose pictures of few steps can be opaque.
    _job_by_test_input(engine, SDXL_REQUEST, SDXL_SIZE, ALPHA_CHECK="accept")


def _build(engine: Engine, context: Path, target: str, **arguments: str) -> None:
    started_s = time.monotonic()
    engine.build(context, target, **arguments)
    _report("built", f"{target} in {time.monotonic() - started_s:.0f} s")


def _job_by_test_input(
    engine: Engine, request: dict[str, object], size: tuple[int, int], volume: Path | None = None, **environment: str
) -> None:
    container = engine.start("worker", "--test_input", json.dumps({"input": request}), volume=volume, **environment)
    printed, _ = container.communicate(timeout=120)
    _check(container.returncode == 0, f"--test_input exited with {container.returncode}")
    output = json.loads(printed.splitlines()[-1])["output"]
    _check_picture(base64.b64decode(output["image_base64"]), size, "through RunPod's SDK")


def _job_by_http(engine: Engine) -> None:
    started_s = time.monotonic()
    container = engine.start("serve", PORT="18000")
    url = "http://127.0.0.1:18000"
    while not _answers(f"{url}/ping"):
        if container.poll() is not None or time.monotonic() - started_s > 120:
            raise Failed("serve did not answer within 120 s, or ended")
        time.sleep(0.1)
    job = requests.post(f"{url}/v2/test/runsync", json={"input": REQUEST}, timeout=120).json()
    seconds = time.monotonic() - started_s
    _check_picture(base64.b64decode(job["output"]["image_base64"]), SIZE, "through HTTP")
    _check(seconds < FIRST_ANSWER_S, f"first answer {seconds:.1f} s after the start")
    _check(engine.inside("id", "-u").strip() == "1000", "user id 1000")
    if engine.has_processes_of_its_own:
        _check(engine.inside("cat", "/proc/1/comm").strip() == "tini", "process 1 is tini")
    engine.inside("python3", "/app/tools/healthcheck.py")
    _report("healthcheck", "ok")
    versions = engine.inside(
        "/app/.comfyui/venv/bin/python", "-c", "import xformers, torch; print(xformers.__version__)"
    )
    _report("xformers", versions.strip().splitlines()[-1])
    started_s = time.monotonic()
    engine.stop()
    try:
        container.wait(60)
    except subprocess.TimeoutExpired:
        raise Failed("still running 60 s after SIGTERM") from None
    seconds = time.monotonic() - started_s
    _check(seconds < STOP_S, f"ended {seconds:.1f} s after SIGTERM, exit status {container.returncode}")
    odd = [path for path in engine.changed() if not path.startswith(WRITABLE)]
    _check(not odd, f"files written outside /tmp and /data: {odd[:5] or 'none'}")


def _check_sent(engine: Engine, layers: Layers, most_bytes: int, what: str) -> None:
    known = {digest for digest, *_ in layers}
    sent_bytes = sum(size for digest, size, _ in engine.layers() if digest not in known)
    _check(sent_bytes < most_bytes, f"{what} uploads {sent_bytes / 1e6:.2f} MB")


def _check_picture(png: bytes, size: tuple[int, int], way: str) -> None:
    check_png(png, *size)
    _report("picture", f"{way}: RGBA, {size[0]}x{size[1]}, {len(png) / 1000:.0f} kB")


def _check(holds: bool, claim: str) -> None:
    if not holds:
        raise Failed(f"check failed: {claim}")
    _report("ok", claim)


def _report(subject: str, fact: str) -> None:
    console.print(f"[green]{subject:>12}[/]  {fact}")


def _layers(config: dict[str, Any], sizes: list[int]) -> Layers:
    origins = [step.get("created_by", "") for step in config["history"] if not step.get("empty_layer")]
    return list(zip(config["rootfs"]["diff_ids"], sizes, origins, strict=True))


def _show(layers: Layers) -> None:
    table = Table("MB", "layer", box=None)
    for _, size, origin in layers:
        table.add_row(f"{size / 1e6:10.1f}", origin.removeprefix("/bin/sh -c ").removeprefix("#(nop) ")[:90])
    table.add_row(f"{sum(size for _, size, _ in layers) / 1e6:10.1f}", "total, uncompressed")
    console.print(table)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _shared() -> list[str]:
    """Returns the files that a build needs if this machine reaches package indexes through a proxy of its own."""
    return [path for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serves the folder's files on this machine and yields the URL."""
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="image-test-") as folder:
        yield Path(folder)


def _run_options(volume: Path | None, environment: dict[str, str]) -> list[str]:
    options = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    return options if volume is None else [*options, "--volume", f"{volume}:{VOLUME}:ro"]


def _started(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603


def _output(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603


def _succeeds(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
