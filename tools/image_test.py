"""Builds the images, starts them, sends jobs and checks what they write, with Docker or with buildah.

With buildah, no registry is needed, because debootstrap makes the base image. Both must be installed, and this program
must run as root.

The images with SDXL's files download them from a local mirror, which serves the tiny model's files under SDXL's names.
So everything except the weights themselves is tested.
"""

import argparse
import base64
import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import requests
from rich.console import Console
from rich.table import Table

from handler.job.png import check_png
from tools import containers, mirror
from tools.containers import Engine, Layers
from tools.surroundings import ALL_AT_ONCE, AS_BUILT, MATRIX, Surroundings

ROOT = Path(__file__).resolve().parents[1]
REQUEST = {"prompt": "a red apple", "seed": 7}
SIZE = (128, 128)  # of the tiny model
SDXL_SIZE = (512, 512)  # the smallest of the SDXL profile
SDXL_REQUEST = {**REQUEST, "width": SDXL_SIZE[0], "height": SDXL_SIZE[1], "num_inference_steps": 4}
# The stand-ins are the tiny model, whose pictures of few steps can be opaque, and here it runs without a GPU.
SDXL_ENVIRONMENT = {"ALPHA_CHECK": "accept", "DEVICE": "cpu"}
NVIDIA = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
WRITABLE = ("/tmp", "/data", "/proc", "/sys", "/dev", "/run", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")  # noqa: S108
STOP_S = 10
JOB_S = 300  # from the start of a container to its picture, on a busy machine
REBUILT_BYTES = 5_000_000
OTHER_WEIGHTS_BYTES = 250_000_000  # the worker's own environment, a layer above the weights
SLIMMED_BYTES = 1_500_000_000  # what SLIM=1 saves at least
CHANGED = Path("handler", "__init__.py")

console = Console(highlight=False, soft_wrap=True, width=120)


class Failed(Exception):
    """A check failed."""


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/image-test", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep the last image")
    parser.add_argument("--base", metavar="IMAGE", help="base image instead of debian:bookworm-slim, with Docker only")
    options = parser.parse_args()
    engine = containers.engine(options.base)
    try:
        _try_out(engine)
    except (Failed, subprocess.CalledProcessError, requests.RequestException) as exc:
        console.print(f"[red]image-test: {exc}[/]")
        return 1
    finally:
        engine.remove()
        if not options.keep:
            engine.remove_image()
    return 0


def _try_out(engine: Engine) -> None:
    with containers.folder() as folder:
        context = folder / "context"
        listed = containers.output(
            "git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"
        )
        for name in filter(None, listed.split("\0")):
            place = context / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place)
        layers, png = _try_tiny(engine, context)
        _try_without_some_libraries(engine, context, layers, png)
        _try_slim(engine, context, layers)
        _try_sdxl(engine, context, folder)


def _try_tiny(engine: Engine, context: Path) -> tuple[Layers, bytes]:
    _build(engine, context, "worker-tiny")
    layers = engine.layers()
    _show(layers)
    png = _job_by_test_input(engine, REQUEST, SIZE)
    _job_by_http(engine)
    _try_matrix(engine, png)
    with (context / CHANGED).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    _build(engine, context, "worker-tiny")
    _check_sent(engine, layers, REBUILT_BYTES, "a change in handler/")
    return layers, png


def _try_matrix(engine: Engine, png: bytes) -> None:
    """Draws the same picture in each of the surroundings, and at last in all of them at once, over HTTP."""
    for name, surroundings in MATRIX.items():
        if surroundings.tmpfs and not engine.can_be_read_only:
            _report("skipped", f"{name}: buildah cannot make the root read-only")
            continue
        drawn = _job_by_test_input(engine, REQUEST, SIZE, surroundings)
        _check(drawn == png, f"the same picture with {name}")
    _, _, drawn = _serve(engine, ALL_AT_ONCE)
    _check(drawn == png, "the same picture with all of them at once, over HTTP")
    engine.remove()


def _try_without_some_libraries(engine: Engine, context: Path, layers: Layers, png: bytes) -> None:
    _build(engine, context, "worker-tiny", SLIM="1")
    slimmed = engine.layers()
    _show(slimmed)
    saved_bytes = _total_bytes(layers) - _total_bytes(slimmed)
    _check(saved_bytes > SLIMMED_BYTES, f"SLIM=1 saves {saved_bytes / 1e6:.0f} MB")
    _check(_job_by_test_input(engine, REQUEST, SIZE) == png, "the same picture with SLIM=1")


def _try_slim(engine: Engine, context: Path, layers: Layers) -> None:
    _build(engine, context, "worker-slim")
    _check_sent(engine, layers, OTHER_WEIGHTS_BYTES, "the image without weights, on top of the tiny one,")
    _job_by_test_input(engine, REQUEST, SIZE, Surroundings(volume=ROOT / "models"))


def _try_sdxl(engine: Engine, context: Path, folder: Path) -> None:
    (context / "models.txt").write_text(mirror.fill(folder / "mirror"), "utf-8")
    volume = mirror.volume_with_checkpoint(folder / "volume")
    folder.chmod(0o755)  # for the container's user
    with mirror.served(folder / "mirror") as url:
        _build(engine, context, "worker-patch", HF_ENDPOINT=url)
        _job_by_test_input(engine, SDXL_REQUEST, SDXL_SIZE, Surroundings(SDXL_ENVIRONMENT, volume=volume))
        _build(engine, context, "worker", HF_ENDPOINT=url)
    _job_by_test_input(engine, SDXL_REQUEST, SDXL_SIZE, Surroundings(SDXL_ENVIRONMENT))


def _build(engine: Engine, context: Path, target: str, **arguments: str) -> None:
    started_s = time.monotonic()
    engine.build(context, target, **arguments)
    given = "".join(f" {name}={value}" for name, value in arguments.items())
    _report("built", f"{target}{given} in {time.monotonic() - started_s:.0f} s")


def _job_by_test_input(
    engine: Engine, request: dict[str, object], size: tuple[int, int], surroundings: Surroundings = AS_BUILT
) -> bytes:
    """Returns the PNG of a job that goes through RunPod's SDK."""
    container = engine.start("worker", "--test_input", json.dumps({"input": request}), surroundings=surroundings)
    try:
        printed, _ = container.communicate(timeout=JOB_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"--test_input was not finished after {JOB_S} s") from None
    _check(container.returncode == 0, f"--test_input exited with {container.returncode}")
    png = base64.b64decode(json.loads(printed.splitlines()[-1])["output"]["image_base64"])
    _check_picture(png, size, "through RunPod's SDK")
    return png


def _serve(engine: Engine, surroundings: Surroundings = AS_BUILT) -> "tuple[subprocess.Popen[str], float, bytes]":
    """Starts the HTTP server and sends it a job; returns the container, seconds to the answer, PNG."""
    started_s = time.monotonic()
    environment = {**surroundings.environment, "PORT": "18000", "EMBED_WORKFLOW": "false"}  # the PNG is the worker's
    container = engine.start("serve", surroundings=dataclasses.replace(surroundings, environment=environment))
    url = "http://127.0.0.1:18000"
    while not _answers(f"{url}/ping"):
        if container.poll() is not None or time.monotonic() - started_s > JOB_S:
            raise Failed(f"serve did not answer within {JOB_S} s, or ended")
        time.sleep(0.1)
    job = requests.post(f"{url}/v2/test/runsync", json={"input": REQUEST}, timeout=JOB_S).json()
    seconds = time.monotonic() - started_s
    png = base64.b64decode(job["output"]["image_base64"])
    _check_picture(png, SIZE, "through HTTP")
    return container, seconds, png


def _job_by_http(engine: Engine) -> None:
    container, seconds, _ = _serve(engine)
    _report("first answer", f"{seconds:.1f} s after the start")
    _check(engine.inside("id", "-u").strip() == "1000", "user id 1000")
    environment = dict(line.partition("=")[::2] for line in engine.inside("env").splitlines())
    _check(environment.items() >= NVIDIA.items(), f"the environment asks for a GPU: {NVIDIA}")
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


def _show(layers: Layers) -> None:
    table = Table("MB", "layer", box=None)
    for _, size, origin in layers:
        table.add_row(f"{size / 1e6:10.1f}", origin.removeprefix("/bin/sh -c ").removeprefix("#(nop) ")[:90])
    table.add_row(f"{_total_bytes(layers) / 1e6:10.1f}", "total, uncompressed")
    console.print(table)


def _total_bytes(layers: Layers) -> int:
    return sum(size for _, size, _ in layers)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


if __name__ == "__main__":
    sys.exit(main())
