"""What the commands share: settings, messages, and the one place that turns errors into exit statuses."""

from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from typer.core import TyperGroup

from handler.errors import GenerationError
from handler.settings import Settings

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3

errors = Console(stderr=True, highlight=False, soft_wrap=True)


class CommandFailed(Exception):
    """A command that cannot continue; the message is for the person who typed it.

    Attributes:
        status: the program's exit status.
    """

    def __init__(self, message: str, status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.status = status


class Commands(TyperGroup):
    """A group of commands; an error of theirs is one line on standard error and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as exc:
            message, status = str(exc), exc.status
        except GenerationError as exc:
            message, status = "\n  ".join([exc.code, *exc.details]) if len(exc.details) > 1 else str(exc), EXIT_FAILED
        errors.print(f"layerdiffuse-alpha: {message}", markup=False)
        raise typer.Exit(status)


def settings() -> Settings:
    """Returns the settings; an invalid value stops the program with an error."""
    try:
        return Settings()
    except ValidationError as exc:
        faults = [f"{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in exc.errors()]
        raise CommandFailed("; ".join(faults), EXIT_USAGE) from None


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """Stops the program with an error."""
    raise CommandFailed(message, status)
