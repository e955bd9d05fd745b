"""`layerdiffuse-alpha doctor`: checks the installation and says how to fix it."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from handler import logs
from handler.cli import terminal
from handler.cli.terminal import EXIT_FAILED, errors

if TYPE_CHECKING:
    from handler.cli.checks import Finding

COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


def line(finding: "Finding") -> str:
    """Returns a finding as a line of the console's markup; its remedy is a second line."""
    remedy = f"\n           -> {finding.remedy}" if finding.remedy else ""
    severity = f"[{COLOURS[finding.severity]}]{finding.severity:>5}[/]"
    return f"{severity}  [bold]{escape(finding.subject)}[/]  {escape(finding.fact)}{escape(remedy)}"


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Check only; do not draw a picture.")] = False,
) -> None:
    """Checks everything that a picture needs, and says how to fix it.

    Exit status: 0 everything works, 1 something does not.
    """
    settings = terminal.settings()
    logs.configure(settings.log_level if "log_level" in settings.model_fields_set else "CRITICAL", settings.log_format)
    from handler.cli.checks import Severity, findings

    console = Console(highlight=False, soft_wrap=True)
    failed = False
    with errors.status("checking"):
        for finding in findings(settings, draws=not quick):
            console.print(line(finding))
            failed |= finding.severity is Severity.WRONG
    raise typer.Exit(EXIT_FAILED if failed else 0)
