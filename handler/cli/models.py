"""The command line `layerdiffuse-alpha models fetch | verify | list`."""

import functools
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from handler.cli.terminal import EXIT_USAGE, Commands, fail, settings
from handler.settings import Settings
from handler.weights import manifest
from handler.weights.download import Fetcher, NotFetched
from handler.weights.manifest import DEFAULT_SECTION, BadList, Entry, WrongFile

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Fetches and checks the weight files that manifest.txt lists."
)

Sections = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION", help="Sections of manifest.txt.", show_default=DEFAULT_SECTION),
]


@app.command()
def fetch(sections: Sections = None) -> None:
    """Fetches the files that are not there, and goes on where it was stopped before.

    A file of the right size counts as there; verify reads it.

    Exit status: 0 all files are there, 1 one is not, 2 the command line is wrong.
    """
    chosen = settings()
    entries = _entries(chosen, sections or [DEFAULT_SECTION])
    token = chosen.hf_token.get_secret_value() if chosen.hf_token else None
    failed = False
    with _progress() as progress:
        bars = _Bars(progress)
        try:
            fetcher = Fetcher(chosen.models_dir, str(chosen.hf_endpoint), token, bars.size, bars.trouble)
            for entry, failure in fetcher.fetch_all(entries):
                failed |= failure is not None
                _report(entry, "is there" if failure is None else f"is not fetched: {failure}")
        except NotFetched as exc:
            fail(str(exc))
    raise typer.Exit(int(failed))


@app.command()
def verify(sections: Sections = None) -> None:
    """Reads every file and compares its size and hash with the list; needs no network.

    Exit status: 0 all files are right, 1 one is missing or wrong, 2 the command line is wrong.
    """
    chosen = settings()
    entries = _entries(chosen, sections or [DEFAULT_SECTION])
    failed = False
    with _progress() as progress:
        bars = _Bars(progress)
        for entry in entries:
            try:
                manifest.verify(entry, chosen.models_dir, functools.partial(bars.size, entry))
            except WrongFile as exc:
                failed = True
                _report(entry, str(exc))
            else:
                _report(entry, "is right")
    raise typer.Exit(int(failed))


@app.command("list")
def list_files() -> None:
    """Shows every file of the list and whether it is there, by size alone; needs no network."""
    chosen = settings()
    for entry in _entries(chosen, None):
        size = f"{'about ' if entry.is_rough else ''}{entry.size_bytes / 1e6:,.0f} MB"
        typer.echo(f"{entry.section:<7} {manifest.state(entry, chosen.models_dir):<13} {size:>14}  {entry}")


class _Bars:
    """A bar for each file that is fetched or read. Safe to use from several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[Entry, TaskID] = {}

    def size(self, entry: Entry, size_bytes: int) -> None:
        """Shows how much of a file there is."""
        if entry not in self._tasks:
            self._tasks[entry] = self._progress.add_task(entry.path.name, total=entry.size_bytes)
        self._progress.update(self._tasks[entry], completed=size_bytes)

    def trouble(self, entry: Entry, text: str) -> None:
        """Tells above the bars what goes wrong with a file."""
        self._progress.console.print(f"{entry}: {text}", markup=False)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, soft_wrap=True),
        transient=True,
    )


def _report(entry: Entry, text: str) -> None:
    typer.echo(f"{entry} {text}")


def _entries(chosen: Settings, sections: list[str] | None) -> list[Entry]:
    """Returns the entries of the sections, or of all; a list that makes no sense ends the program."""
    try:
        entries = manifest.read(chosen.models_file)
        return list(entries) if sections is None else manifest.of_sections(entries, sections)
    except BadList as exc:
        fail(str(exc), EXIT_USAGE)


if __name__ == "__main__":
    app()
