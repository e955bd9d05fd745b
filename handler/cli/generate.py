"""`layerdiffuse-alpha generate`: pictures from the command line."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from handler import logs
from handler.cli import outputs, prompts, terminal
from handler.cli.api import RUNPOD_URL, Api, Refused
from handler.cli.fields import Fields
from handler.cli.outputs import STDOUT, Output
from handler.cli.report import Report
from handler.cli.sources import OWN_ENDPOINT, Local, Remote, Source
from handler.cli.terminal import EXIT_USAGE, errors, fail
from handler.comfyui.process import ComfyProcess
from handler.errors import ComfyUnavailable, GenerationError
from handler.job import profiles, stored_workflows
from handler.job.generate import Generator
from handler.settings import Settings

PICTURE, MANY, SERVER = "The picture", "Several pictures", "Server"


def generate(  # noqa: PLR0917 -- the command line names them
    prompt: Annotated[list[str] | None, typer.Argument(help="What to draw; - reads one prompt a line.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A file (.png, .webp), a folder, or - for standard output.")
    ] = Path("alpha.png"),
    is_shown: Annotated[bool, typer.Option("--show", help="Show the pictures in the terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for each picture.")] = False,
    negative: Annotated[str | None, typer.Option(help="What to avoid.", rich_help_panel=PICTURE)] = None,
    size: Annotated[
        str | None, typer.Option(help="For example square, portrait_4_3 or 1024x768.", rich_help_panel=PICTURE)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.", rich_help_panel=PICTURE)] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strictly to follow the prompt (CFG).", rich_help_panel=PICTURE)
    ] = None,
    workflow: Annotated[
        str | None, typer.Option(help="The stored workflow that draws it.", rich_help_panel=PICTURE)
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="Input picture of a workflow that takes one: a file or URL.", rich_help_panel=PICTURE),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed draws the same picture.", rich_help_panel=PICTURE)
    ] = None,
    format_: Annotated[
        Literal["png", "webp"] | None,
        typer.Option("--format", help="By default, the suffix of the file decides.", rich_help_panel=PICTURE),
    ] = None,
    trim: Annotated[bool, typer.Option("--trim", help="Crop to the object.", rich_help_panel=PICTURE)] = False,
    count: Annotated[
        int,
        typer.Option("--count", "-n", min=1, max=1000, help="For each prompt; seeds count up.", rich_help_panel=MANY),
    ] = 1,
    file: Annotated[
        Path | None,
        typer.Option("--prompts", help="Text, one prompt a line, or CSV with parameters.", rich_help_panel=MANY),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write a contact sheet to this file.", rich_help_panel=MANY)
    ] = None,
    url: Annotated[str | None, typer.Option(help="For example http://127.0.0.1:8000.", rich_help_panel=SERVER)] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Id of a RunPod endpoint; needs RUNPOD_API_KEY.", rich_help_panel=SERVER)
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for each picture.", rich_help_panel=SERVER)
    ] = 900,
) -> None:
    """Draws pictures and writes them as PNG or WebP: with its own ComfyUI, with a server, or with RunPod.

    In a folder, each file is named after its prompt and parameters, and pictures that exist are not drawn again: a
    list that was interrupted continues. If a picture of a list fails, the others are still drawn.

    If a prompt begins with a dash, put it last, after two dashes: -o key.png -- "-key-"

    Exit status: 0 all pictures drawn, 1 a job failed, 2 invalid command line, 3 server unreachable.
    """
    settings = terminal.settings()
    logs.configure(settings.log_level if "log_level" in settings.model_fields_set else "ERROR", settings.log_format)
    options = {
        "workflow": workflow,
        "image": image,
        "negative": negative,
        "size": size,
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "format": format_,
        "trim": trim or None,
    }
    texts = prompt or ([] if file is not None else ["a red apple"])
    fields = Fields(profiles.read(_with(workflow, settings)).parameters)
    planned = outputs.plan(output, prompts.requests(texts, file, options, count, fields))
    if output == STDOUT and (as_json or is_shown or sheet):
        fail("-o - does not go together with --json, --show or --sheet", EXIT_USAGE)
    missing = [each for each in planned if not each.is_done]
    for each in missing:
        each.check()
    if sheet is not None:
        outputs.check_sheet(sheet)
    report = Report(as_json, is_shown, is_short=len(planned) > 1, to_stderr=output == STDOUT)
    report.skipped([each for each in planned if each.is_done])
    failed: list[Output] = []
    if missing:
        with _source(settings, [each.request for each in missing], url, endpoint, timeout) as source:
            failed = _draw(source, missing, report, is_single=len(planned) == 1)
    if sheet is not None and (drawn := [each for each in planned if each not in failed]):
        report.sheet(drawn, sheet)
    if failed:
        fail(f"{len(failed)} of {len(planned)} pictures failed")


def _with(workflow: str | None, settings: Settings) -> Settings:
    """Returns the settings with a stored workflow as the default; unchanged if there is none of this name."""
    if workflow not in stored_workflows.names(settings):
        return settings
    return settings.model_copy(update={"workflow": workflow})


def _draw(source: Source, missing: Sequence[Output], report: Report, is_single: bool) -> list[Output]:
    """Draws the pictures, and returns those that failed.

    Raises:
        GenerationError, CommandFailed: the only picture failed, or the next ones would fail too.
    """
    failed = []
    for number, each in enumerate(missing):
        try:
            with report.progress(number, len(missing)) as on_step:
                result = source.draw(number, on_step)
        except ComfyUnavailable:
            raise
        except (GenerationError, Refused) as exc:
            if is_single:
                raise
            failed.append(each)
            report.failed(each, exc)
        else:
            each.write(result.encoded)
            report.drawn(each, result)
    return failed


@contextlib.contextmanager
def _source(
    settings: Settings, requests: Sequence[Mapping[str, Any]], url: str | None, endpoint: str | None, timeout_s: float
) -> Iterator[Source]:
    """Yields what draws the requests."""
    if endpoint is not None:
        key = os.environ.get("RUNPOD_API_KEY")
        if not key:
            fail("--endpoint needs a key in RUNPOD_API_KEY", EXIT_USAGE)
        with Api(url or RUNPOD_URL, key) as api:
            yield Remote(requests, api, endpoint, timeout_s)
    elif url is not None:
        with Api(url, os.environ.get("API_KEY")) as api:
            yield Remote(requests, api, OWN_ENDPOINT, timeout_s)
    else:
        with ComfyProcess(settings) as comfyui:
            local = Local(requests, Generator(profiles.load(settings), comfyui, settings), settings)
            with errors.status("starting ComfyUI"):
                local.start()
            yield local
