"""The command line: `layerdiffuse-alpha worker | serve | generate | models | doctor`; alone it is the worker."""

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from handler import logs, serverless
from handler.cli import models, terminal
from handler.cli.sources import OWN_ENDPOINT, RUNPOD_URL, Drawn, Local, Refused, Remote, Source, Unreachable
from handler.cli.terminal import EXIT_FAILED, EXIT_USAGE, errors, fail
from handler.comfyui.process import ComfyProcess
from handler.errors import GenerationError
from handler.job import profiles
from handler.job.bucket import Buckets
from handler.job.generate import Generator
from handler.job.runner import Worker
from handler.settings import Settings

EXIT_UNREACHABLE = 3
JOB_SOURCES = ("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_REALTIME_PORT")

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(models.app, name="models")


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
    settings = terminal.settings()
    logs.configure(settings.log_level)
    # The SDK's own default is to log each reply in full.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", os.environ.get("RUNPOD_DEBUG_LEVEL", "WARN"))
    import runpod.serverless  # 2 s that other commands need not spend

    sdk_arguments, _ = runpod.serverless.parser.parse_known_args(context.args)
    is_test = sdk_arguments.test_input is not None
    if is_test:
        _check_test_input(sdk_arguments.test_input)
    elif not sdk_arguments.rp_serve_api and not any(map(os.environ.get, JOB_SOURCES)):
        fail(
            "no jobs to take: give --test_input or --rp_serve_api; on RunPod, RUNPOD_WEBHOOK_GET_JOB is set", EXIT_USAGE
        )
    sys.argv = [sys.argv[0], *context.args]
    with _generator(settings) as generator:
        handle = serverless.make_handler(Worker(generator, Buckets(settings)), settings)
        if is_test:
            results: list[dict[str, Any]] = []
            try:
                runpod.serverless.start({"handler": serverless.printed(handle, results)})
            finally:
                # The SDK exits with 0 when it is interrupted.
                if not any(result["status"] == "COMPLETED" for result in results):
                    raise typer.Exit(EXIT_FAILED)
        try:
            generator.prepare()
        except GenerationError as exc:  # the jobs will fail, and say so
            log.error("not ready for jobs", extra={"code": exc.code, "reason": exc.message})  # noqa: TRY400
        runpod.serverless.start({"handler": handle})


@app.command()
def generate(  # noqa: PLR0917 -- the command line names them
    prompt: Annotated[str, typer.Argument(help="What to draw.")] = "a red apple",
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("alpha.png"),
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same picture.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many pictures; files and seeds count up.")] = 1,
    url: Annotated[str | None, typer.Option(help="A server to draw with, as http://127.0.0.1:8000.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="A RunPod endpoint's id to draw with; needs RUNPOD_API_KEY.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Longest wait for one picture of a server, in seconds.")] = 900,
) -> None:
    """Draws pictures and writes them as PNGs: with a ComfyUI of its own, with any server, or with RunPod.

    A prompt that begins with a dash stands last, after two dashes: -o key.png -- "-key-"

    Exit status: 0 all drawn, 1 a job failed, 2 the command line is wrong, 3 no server answers.
    """
    settings = terminal.settings()
    logs.configure(settings.log_level if "log_level" in settings.model_fields_set else "ERROR")
    requests = [{"prompt": prompt, "seed": None if seed is None else seed + number} for number in range(count)]
    outputs = [output.with_stem(f"{output.stem}-{number + 1}") for number in range(count)] if count > 1 else [output]
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(_part_of(path)) for path in outputs]
        source = stack.enter_context(_source(settings, requests, url, endpoint, timeout))
        for request, path, part in zip(requests, outputs, parts, strict=True):
            drawn = _with_progress(source, request)
            part.write_bytes(drawn.png)
            part.replace(path)
            _report(path, len(drawn.png), drawn.info)


@contextlib.contextmanager
def _source(
    settings: Settings, requests: list[dict[str, Any]], url: str | None, endpoint: str | None, timeout_s: float
) -> Iterator[Source]:
    """Gives what draws; its errors end the program."""
    try:
        if url is None and endpoint is None:
            with _generator(settings) as generator:
                generator.check(requests[-1])
                with errors.status("starting ComfyUI"):
                    generator.start()
                yield Local(generator, settings)
        elif endpoint is None:
            yield Remote(str(url), OWN_ENDPOINT, os.environ.get("API_KEY"), timeout_s)
        elif key := os.environ.get("RUNPOD_API_KEY"):
            yield Remote(url or RUNPOD_URL, endpoint, key, timeout_s)
        else:
            fail("--endpoint needs a key in RUNPOD_API_KEY", EXIT_USAGE)
    except (Refused, GenerationError) as exc:
        fail(str(exc))
    except Unreachable as exc:
        fail(str(exc), EXIT_UNREACHABLE)


@app.command()
def serve() -> None:
    """Serves RunPod's job API, the alpha API and a page to click, on LISTEN_HOST and PORT."""
    settings = terminal.settings()
    logs.configure(settings.log_level)
    from handler.server import serve as server  # FastAPI takes half a second that other commands need not spend

    try:
        server.check_address(settings)
        with _generator(settings) as generator:
            server.serve(generator, settings)
    except server.AddressNotAllowed as exc:
        fail(str(exc), EXIT_USAGE)
    except OSError as exc:
        fail(f"{settings.listen_host}:{settings.port} cannot be listened on: {exc.strerror}", EXIT_USAGE)


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Look only; do not draw a picture.")] = False,
) -> None:
    """Checks everything that a picture needs, and says how to mend what is wrong. Exit status 1 where something is."""
    settings = terminal.settings()
    logs.configure(settings.log_level if "log_level" in settings.model_fields_set else "CRITICAL")
    from handler.cli.doctor import Verdict, examine

    colours = {Verdict.GOOD: "green", Verdict.ODD: "yellow", Verdict.BAD: "red"}
    console = Console(highlight=False, soft_wrap=True)
    worst = 0
    with errors.status("looking"):
        for finding in examine(settings, draws=not quick):
            remedy = f"\n           -> {finding.remedy}" if finding.remedy else ""
            verdict = f"[{colours[finding.verdict]}]{finding.verdict:>5}[/]"
            console.print(f"{verdict}  [bold]{escape(finding.subject)}[/]  {escape(finding.fact)}{escape(remedy)}")
            worst = max(worst, int(finding.verdict is Verdict.BAD))
    raise typer.Exit(worst)


@contextlib.contextmanager
def _part_of(output: Path) -> Iterator[Path]:
    """Gives a file beside `output` that may take its place, and is gone after the block; fails where none can be."""
    if output.is_dir():
        fail(f"{output} is a folder, expected the name of a file", EXIT_USAGE)
    part = output.with_name(output.name + ".part")
    try:
        part.touch()
        yield part
    except OSError as exc:
        fail(f"{output} cannot be written: {exc.strerror}", EXIT_USAGE)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _with_progress(source: Source, request: dict[str, Any]) -> Drawn:
    with Progress(console=errors, transient=True) as bars:
        task = bars.add_task("drawing", total=None)
        return source.draw(request, lambda value, steps: bars.update(task, completed=value, total=steps))


def _report(output: Path, size_bytes: int, info: Mapping[str, Any]) -> None:
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


@contextlib.contextmanager
def _generator(settings: Settings) -> Iterator[Generator]:
    """Gives a generator with a ComfyUI of its own, which ends with the block; an error ends the program."""
    comfyui = ComfyProcess(settings)
    try:
        yield Generator(profiles.load(settings), comfyui, settings)
    except GenerationError as exc:
        fail(str(exc))
    finally:
        comfyui.stop()


def _check_test_input(text: str) -> None:
    try:
        job = json.loads(text)
    except (ValueError, RecursionError) as exc:
        fail(f"--test_input is not JSON: {exc}", EXIT_USAGE)
    if not isinstance(job, dict) or job.get("input") is None:
        fail('--test_input must be an object with an "input"', EXIT_USAGE)


def _exit(signum: int, _: FrameType | None) -> None:
    """Lets `finally` run; the SDK's loop puts its own handler of SIGTERM in place of this one."""
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    main()
