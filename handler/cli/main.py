"""The command line: worker (default), serve, generate, jobs, models, doctor, verify, workflow, version."""

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

import handler
from handler import proxies
from handler.cli import doctor, generate, jobs, models, serve, verify, version, worker, workflow
from handler.cli.terminal import Commands

PICTURES, WORKER, INSTALLATION = "Pictures and jobs", "Worker", "Installation"
OWN_OPTIONS = ("--help", "--version", "--install-completion", "--show-completion")

app = typer.Typer(cls=Commands, no_args_is_help=False, pretty_exceptions_enable=False)
app.command(rich_help_panel=PICTURES)(generate.generate)
app.add_typer(jobs.app, name="jobs", rich_help_panel=PICTURES)
app.command(rich_help_panel=WORKER, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    worker.worker
)
app.command(rich_help_panel=WORKER)(serve.serve)
app.command(rich_help_panel=INSTALLATION)(doctor.doctor)
app.command(rich_help_panel=INSTALLATION)(verify.verify)
app.add_typer(models.app, name="models", rich_help_panel=INSTALLATION)
app.add_typer(workflow.app, name="workflow", rich_help_panel=INSTALLATION)
app.command(rich_help_panel=INSTALLATION)(version.version)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"layerdiffuse-alpha {handler.__version__}")
        raise typer.Exit


@app.callback()
def _program(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Text in, transparent PNG out. Without a command, it is RunPod's worker.

    Exit status: 0 done, 1 failed, 2 invalid command line or setting, 3 server unreachable, 130 interrupted with
    Ctrl+C, 143 stopped with SIGTERM.
    """


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0].partition("=")[0] not in OWN_OPTIONS):
        arguments = ["worker", *arguments]
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # they have the same effect
    proxies.bypass_for_loopback()
    app(arguments, prog_name="layerdiffuse-alpha")


def _exit(signum: int, _: FrameType | None) -> None:
    """Ends the program so that `finally` blocks run; uvicorn and the SDK install their own handler of SIGTERM later."""
    raise SystemExit(128 + signum)
