"""`layerdiffuse-alpha verify`: judges the whole worker on this machine, and writes a report to send."""

import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from handler import logs
from handler.cli import terminal
from handler.cli.terminal import EXIT_FAILED, EXIT_USAGE, errors, fail


def verify(
    report: Annotated[Path, typer.Option(metavar="DIR", help="Folder for verify.html and verify.json.")] = Path(
        "verify-report"
    ),
) -> None:
    """Checks this machine from driver to picture, and writes a report that can be attached to an issue.

    It hashes the weights, starts ComfyUI, draws twelve reference pictures and measures time, memory and cost.
    The report contains no paths, host names or keys.

    Exit status: 0 everything passed, 1 something failed, 2 the report cannot be written.
    """
    settings = terminal.settings()
    is_verbose = "log_level" in settings.model_fields_set
    logs.configure(settings.log_level if is_verbose else "CRITICAL", settings.log_format)
    try:
        report.mkdir(parents=True, exist_ok=True)
        (report / "verify.json.part").touch()
    except OSError as exc:
        fail(f"{report} cannot be written: {exc.strerror}; choose another folder with --report", EXIT_USAGE)
    from handler.cli.doctor import line
    from handler.cli.verify_report import Report, write
    from handler.cli.verify_run import Verification

    found = Report(date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"))
    with _progress() as progress:
        Verification(settings, found, progress, shows_comfyui=is_verbose).run()
    try:
        files = write(found, report)
    except OSError as exc:
        fail(f"{report} cannot be written: {exc.strerror}; choose another folder with --report", EXIT_USAGE)
    console = Console(highlight=False, soft_wrap=True)
    for finding in found.verdicts:
        console.print(line(finding))
    console.print(f"\n{'everything passed' if found.passed else 'something failed'}, profile {found.profile or 'none'}")
    for file in files:
        console.print(f"report: {file}", markup=False)
    raise typer.Exit(0 if found.passed else EXIT_FAILED)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
    )
