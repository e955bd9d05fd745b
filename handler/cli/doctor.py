"""`layerdiffuse-alpha doctor`: checks the installation and says how to fix it."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from handler import logs
from handler.cli import terminal
from handler.cli.terminal import EXIT_FAILED, errors

COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Check only; do not draw a picture.")] = False,
) -> None:
    """Checks everything that a picture needs, and says how to fix it.

    Exit status: 0 everything works, 1 something does not.
    """
    settings = terminal.settings()
    logs.configure(settings.log_level if "log_level" in settings.model_fields_set else "CRITICAL")
    from handler.cli.checks import Severity, findings

    console = Console(highlight=False, soft_wrap=True)
    failed = False
    with errors.status("checking"):
        for finding in findings(settings, draws=not quick):
            remedy = f"\n           -> {finding.remedy}" if finding.remedy else ""
            severity = f"[{COLOURS[finding.severity]}]{finding.severity:>5}[/]"
            console.print(f"{severity}  [bold]{escape(finding.subject)}[/]  {escape(finding.fact)}{escape(remedy)}")
            failed |= finding.severity is Severity.WRONG
    raise typer.Exit(EXIT_FAILED if failed else 0)
