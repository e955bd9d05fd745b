"""What the commands share: settings or a message, and the statuses that they exit with."""

from typing import NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from handler.settings import Settings

EXIT_FAILED = 1
EXIT_USAGE = 2

errors = Console(stderr=True, highlight=False, soft_wrap=True)


def settings() -> Settings:
    """Returns the settings; a value that makes no sense ends the program."""
    try:
        return Settings()
    except ValidationError as exc:
        faults = [f"{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in exc.errors()]
        fail("; ".join(faults), EXIT_USAGE)


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """Ends the program with a message."""
    errors.print(f"layerdiffuse-alpha: {message}", markup=False)
    raise typer.Exit(status)
