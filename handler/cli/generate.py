"""`layerdiffuse-alpha generate`: pictures from the command line."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from handler import logs
from handler.cli import terminal
from handler.cli.sources import OWN_ENDPOINT, RUNPOD_URL, Local, Remote, Result, Source
from handler.cli.terminal import EXIT_USAGE, errors, fail
from handler.comfyui.process import ComfyProcess
from handler.job import profiles
from handler.job.generate import Generator
from handler.settings import Settings


def generate(  # noqa: PLR0917 -- the command line names them
    prompt: Annotated[str, typer.Argument(help="What to draw.")] = "a red apple",
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, .png or .webp.")] = Path(
        "alpha.png"
    ),
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same picture.")] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1000, help="Number of pictures; files and seeds count up.")
    ] = 1,
    size: Annotated[str | None, typer.Option(help="For example square, portrait_4_3 or 1024x768.")] = None,
    trim: Annotated[bool, typer.Option("--trim", help="Crop the picture to the object.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for each picture.")] = False,
    url: Annotated[str | None, typer.Option(help="Server URL, for example http://127.0.0.1:8000.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Id of a RunPod endpoint; needs RUNPOD_API_KEY.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for each picture from a server.")] = 900,
) -> None:
    """Draws pictures and writes them as PNG or WebP: with its own ComfyUI, with a server, or with RunPod.

    If the prompt begins with a dash, put it last, after two dashes: -o key.png -- "-key-"

    Exit status: 0 all pictures drawn, 1 a job failed, 2 invalid command line, 3 server unreachable.
    """
    settings = terminal.settings()
    logs.configure(settings.log_level if "log_level" in settings.model_fields_set else "ERROR", settings.log_format)
    changes = {**_format_of(output), **_size(size), **({"trim": True} if trim else {})}
    seeds = [None if seed is None else seed + number for number in range(count)]
    requests = [{"prompt": prompt, "seed": each, **changes} for each in seeds]
    outputs = [output.with_stem(f"{output.stem}-{number + 1}") for number in range(count)] if count > 1 else [output]
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(_part_of(path)) for path in outputs]
        source = stack.enter_context(_source(settings, requests, url, endpoint, timeout))
        for number, (path, part) in enumerate(zip(outputs, parts, strict=True)):
            result = _draw_with_progress(source, number)
            _write(path, part, result.encoded)
            if as_json:
                typer.echo(json.dumps({"file": str(path), "size_bytes": len(result.encoded), **result.info}))
            else:
                _report(path, len(result.encoded), result.info)


def _format_of(output: Path) -> dict[str, str]:
    """Returns the request's field for the format that the file's suffix names; none for PNG, the default."""
    if output.is_dir():
        fail(f"{output} is a folder, expected the name of a file", EXIT_USAGE)
    suffix = output.suffix.lower()
    if suffix not in {".png", ".webp"}:
        fail(f"{output} must end in .png or .webp", EXIT_USAGE)
    return {"output_format": "webp"} if suffix == ".webp" else {}


def _size(size: str | None) -> dict[str, Any]:
    """Returns the request's fields for a size by name or as 1024x768."""
    if size is None:
        return {}
    width, _, height = size.partition("x")
    if width.isdecimal() and height.isdecimal():
        return {"width": int(width), "height": int(height)}
    return {"size": size}


@contextlib.contextmanager
def _source(
    settings: Settings, requests: list[dict[str, Any]], url: str | None, endpoint: str | None, timeout_s: float
) -> Iterator[Source]:
    """Yields what draws the requests."""
    if endpoint is not None:
        key = os.environ.get("RUNPOD_API_KEY")
        if not key:
            fail("--endpoint needs a key in RUNPOD_API_KEY", EXIT_USAGE)
        with Remote(requests, url or RUNPOD_URL, endpoint, key, timeout_s) as source:
            yield source
    elif url is not None:
        with Remote(requests, url, OWN_ENDPOINT, os.environ.get("API_KEY"), timeout_s) as source:
            yield source
    else:
        with ComfyProcess(settings) as comfyui:
            local = Local(requests, Generator(profiles.load(settings), comfyui, settings), settings)
            with errors.status("starting ComfyUI"):
                local.start()
            yield local


@contextlib.contextmanager
def _part_of(output: Path) -> Iterator[Path]:
    """Yields a temporary file next to `output`, removed afterwards.

    Raises:
        CommandFailed: `output` cannot be written.
    """
    part = output.with_name(output.name + ".part")
    try:
        part.touch()
    except OSError as exc:
        fail(f"{output} cannot be written: {exc.strerror}", EXIT_USAGE)
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _write(output: Path, part: Path, encoded: bytes) -> None:
    try:
        part.write_bytes(encoded)
        part.replace(output)
    except OSError as exc:
        fail(f"{output} cannot be written: {exc.strerror}", EXIT_USAGE)


def _draw_with_progress(source: Source, number: int) -> Result:
    with Progress(console=errors, transient=True) as bars:
        task = bars.add_task("drawing", total=None)
        return source.draw(number, lambda value, steps: bars.update(task, completed=value, total=steps))


def _report(output: Path, size_bytes: int, info: Mapping[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    alpha, picture = info["alpha"], info.get("picture", info)  # absent from replies of workers before 0.2.0
    pixels = f"{picture['width']}x{picture['height']} RGBA"
    console.print(f"[bold]{output}[/bold]  {pixels}, {size_bytes / 1000:.0f} kB, seed {info['seed']}")
    shares = f"{alpha['transparent']:.0%} of the pixels transparent, {alpha['opaque']:.0%} opaque"
    console.print(f"alpha: {shares}, mean {alpha['mean']:.2f}")
    match info.get("alpha_check"):  # absent from replies of workers before 0.2.0
        case {"reason": reason}:
            console.print(f"[yellow]not transparent, accepted:[/yellow] {reason}")
        case {"refused": {"seed": seed, "reason": reason}}:
            console.print(f"seed {seed} was refused: {reason}")
    console.print(f"model: {info['checkpoint']} (profile {info['profile']})")
    table = Table("stage", "seconds", box=None, pad_edge=False)
    for stage, seconds in info["seconds"].items():
        table.add_row(stage, f"{seconds:7.3f}")
    console.print(table)
