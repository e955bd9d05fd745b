"""The command line: worker (default), serve, generate, models, doctor, verify, workflow."""

import signal
import sys
from types import FrameType

import typer

from handler import proxies
from handler.cli import doctor, generate, models, serve, verify, worker, workflow
from handler.cli.terminal import Commands

app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False, help=__doc__
)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(worker.worker)
app.command()(generate.generate)
app.command()(serve.serve)
app.command()(doctor.doctor)
app.command()(verify.verify)
app.add_typer(models.app, name="models")
app.add_typer(workflow.app, name="workflow")


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "--help"):
        arguments = ["worker", *arguments]
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # they have the same effect
    proxies.bypass_for_loopback()
    app(arguments)


def _exit(signum: int, _: FrameType | None) -> None:
    """Ends the program so that `finally` blocks run; uvicorn and the SDK install their own handler of SIGTERM later."""
    raise SystemExit(128 + signum)
