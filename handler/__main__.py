"""The command line: `layerdiffuse-alpha worker` and `generate`; without a subcommand it is the worker."""

import asyncio
import base64
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from handler import logs, queue, stored
from handler.errors import GenerationError
from handler.events import Run
from handler.generate import Generator
from handler.process import ComfyProcess
from handler.settings import Settings
from handler.storage import Buckets

EXIT_FAILED = 1
EXIT_USAGE = 2
JOB_SOURCES = ("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_REALTIME_PORT")

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False, help=__doc__)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "--help"):
        arguments = ["worker", *arguments]
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _exit)
    app(arguments)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def worker(context: typer.Context) -> None:
    """Takes jobs from RunPod, or one from --test_input, or serves the SDK's local API (--rp_serve_api)."""
    settings = _settings()
    logs.configure(settings.log_level)
    # The SDK's own default is to log each reply in full.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", os.environ.get("RUNPOD_DEBUG_LEVEL", "WARN"))
    import runpod.serverless  # 2 s that other commands need not spend

    sdk_arguments, _ = runpod.serverless.parser.parse_known_args(context.args)
    is_test = sdk_arguments.test_input is not None
    if is_test:
        _check_test_input(sdk_arguments.test_input)
    elif not sdk_arguments.rp_serve_api and not any(map(os.environ.get, JOB_SOURCES)):
        _fail(
            "no jobs to take: give --test_input or --rp_serve_api; on RunPod, RUNPOD_WEBHOOK_GET_JOB is set", EXIT_USAGE
        )
    sys.argv = [sys.argv[0], *context.args]
    with _generator(settings) as generator:
        handle = queue.make_handler(generator, settings, buckets=Buckets(settings))
        if is_test:
            results: list[dict[str, Any]] = []
            try:
                runpod.serverless.start({"handler": queue.printed(handle, results)})
            finally:
                # The SDK exits with 0 when it is interrupted.
                if not any(result["status"] == "COMPLETED" for result in results):
                    raise typer.Exit(EXIT_FAILED)
        _prepare(generator, settings)
        runpod.serverless.start({"handler": handle})


def _prepare(generator: Generator, settings: Settings) -> None:
    """Makes the first job as fast as the next. What fails here will fail, and be reported, in the jobs."""
    try:
        generator.start()
        if settings.warm_up:
            generator.warm_up()
    except GenerationError as exc:
        log.error("not ready for jobs", extra={"code": exc.code, "reason": exc.message})  # noqa: TRY400


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")] = "a red apple",
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("alpha.png"),
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same picture.")] = None,
) -> None:
    """Draws one picture with a ComfyUI of its own and writes it as a PNG.

    A prompt that begins with a dash stands last, after two dashes: -o key.png -- "-key-"
    """
    settings = _settings()
    logs.configure(settings.log_level if "log_level" in settings.model_fields_set else "ERROR")
    request = {"prompt": prompt, "seed": seed}
    with _generator(settings) as generator, _replacing(output) as part:
        generator.check(request)
        with errors.status("starting ComfyUI"):
            generator.start()
        reply = _with_progress(generator, settings, request)
        if "error" in reply:
            _fail(reply["error"])
        png = base64.b64decode(reply["image_base64"])
        part.write_bytes(png)
    _report(output, len(png), json.loads(reply["info"]))


@contextlib.contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """Gives a file beside `output` that takes its place when the block ends well; fails at once where none can be."""
    if output.is_dir():
        _fail(f"{output} is a folder, expected the name of a file", EXIT_USAGE)
    part = output.with_name(output.name + ".part")
    try:
        part.touch()
        yield part
        part.replace(output)
    except OSError as exc:
        _fail(f"{output} cannot be written: {exc.strerror}", EXIT_USAGE)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _with_progress(generator: Generator, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    with Progress(console=errors, transient=True) as bars:
        task = bars.add_task("drawing", total=None)

        def show(run: Run) -> None:
            if run.progress is not None:
                bars.update(task, completed=run.progress.value, total=run.progress.maximum)

        handle = queue.make_handler(generator, settings, show)
        return asyncio.run(handle({"id": "local", "input": request}))


def _report(output: Path, size_bytes: int, info: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    alpha = info["alpha"]
    console.print(
        f"[bold]{output}[/bold]  {info['width']}x{info['height']} RGBA, {size_bytes / 1000:.0f} kB, seed {info['seed']}"
    )
    shares = f"{alpha['transparent']:.0%} of the pixels transparent, {alpha['opaque']:.0%} opaque"
    console.print(f"alpha: {shares}, mean {alpha['mean']:.2f}")
    console.print(f"model: {info['checkpoint']} (profile {info['profile']})")
    table = Table("stage", "seconds", box=None, pad_edge=False)
    for stage, seconds in info["seconds"].items():
        table.add_row(stage, f"{seconds:7.3f}")
    console.print(table)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as exc:
        faults = [f"{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in exc.errors()]
        _fail("; ".join(faults), EXIT_USAGE)


@contextlib.contextmanager
def _generator(settings: Settings) -> Iterator[Generator]:
    """Gives a generator with a ComfyUI of its own, which ends with the block; an error ends the program."""
    comfyui = ComfyProcess(settings)
    try:
        yield Generator(stored.load(settings), comfyui, settings)
    except GenerationError as exc:
        _fail(str(exc))
    finally:
        comfyui.stop()


def _check_test_input(text: str) -> None:
    try:
        job = json.loads(text)
    except (ValueError, RecursionError) as exc:
        _fail(f"--test_input is not JSON: {exc}", EXIT_USAGE)
    if not isinstance(job, dict) or job.get("input") is None:
        _fail('--test_input must be an object with an "input"', EXIT_USAGE)


def _fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    errors.print(f"layerdiffuse-alpha: {message}", markup=False)
    raise typer.Exit(status)


def _exit(signum: int, _: FrameType | None) -> None:
    """Lets `finally` run; the SDK's loop puts its own handler of SIGTERM in place of this one."""
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    main()
