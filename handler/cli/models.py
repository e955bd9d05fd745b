"""`layerdiffuse-alpha models fetch | verify | list`. Also runs alone, as `python -m handler.cli.models`."""

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
from handler.settings import WeightSettings
from handler.weights import listed, locate, manifest
from handler.weights.download import Downloader
from handler.weights.locate import Found
from handler.weights.manifest import DEFAULT_SECTION, BadList, Entry, WrongFile
from handler.weights.transfer import DownloadFailed

app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Downloads and checks the weight files listed in models.txt."
)

Sections = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION", help="Sections of models.txt.", show_default=DEFAULT_SECTION),
]


@app.command()
def fetch(sections: Sections = None) -> None:
    """Downloads missing files into the models folder; resumes interrupted downloads.

    A file of the right size counts as present in every place that the worker reads; `verify` checks its content.

    Exit status: 0 all files are present, 1 a download failed, 2 wrong usage, setting or models.txt.
    """
    chosen = settings()
    entries = _entries(chosen, sections or [DEFAULT_SECTION])
    failed = False
    with _progress() as progress:
        bars = _Bars(progress)
        try:
            for entry, failure in Downloader(chosen, bars.size, bars.problem).download(entries):
                failed |= failure is not None
                found = None if failure else locate.find(entry.file, chosen)
                _report(entry, f"failed: {failure}" if failure else f"present{_elsewhere(found, chosen)}")
        except DownloadFailed as exc:
            fail(str(exc))
    raise typer.Exit(int(failed))


@app.command()
def verify(sections: Sections = None) -> None:
    """Reads every file and compares its size and hash with models.txt; needs no network.

    Exit status: 0 all files are ok, 1 a file is missing or wrong, 2 wrong usage, setting or models.txt.
    """
    chosen = settings()
    entries = _entries(chosen, sections or [DEFAULT_SECTION])
    failed = False
    with _progress() as progress:
        bars = _Bars(progress)
        for entry in entries:
            try:
                found = listed.verify(entry, chosen, functools.partial(bars.size, entry))
            except WrongFile as exc:
                failed = True
                _report(entry, f"failed: {exc}")
            else:
                _report(entry, f"ok{_elsewhere(found, chosen)}")
    raise typer.Exit(int(failed))


@app.command("list")
def list_files() -> None:
    """Shows which files of models.txt are present, judged by size, and in which folder; needs no network."""
    chosen = settings()
    for entry in _entries(chosen, None):
        state, found = listed.state(entry, chosen)
        size = f"{'about ' if entry.is_rough else ''}{entry.size_bytes / 1e6:,.0f} MB"
        typer.echo(f"{entry.section:<7} {state:<15} {size:>14}  {entry}{_elsewhere(found, chosen)}")


class _Bars:
    """A progress bar for each file that is downloaded or read. Safe to use from several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[Entry, TaskID] = {}

    def size(self, entry: Entry, size_bytes: int) -> None:
        """Shows the number of bytes of a file that are here or read."""
        if entry not in self._tasks:
            self._tasks[entry] = self._progress.add_task(entry.path.name, total=entry.size_bytes)
        self._progress.update(self._tasks[entry], completed=size_bytes)

    def problem(self, entry: Entry, text: str) -> None:
        """Prints a problem above the bars."""
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
    typer.echo(f"{entry}: {text}")


def _elsewhere(found: Found | None, chosen: WeightSettings) -> str:
    """Returns the folder of a file that is not in the models folder, for the end of a line."""
    return f" in {found.folder}" if found and found.folder != chosen.models_dir else ""


def _entries(chosen: WeightSettings, sections: list[str] | None) -> list[Entry]:
    """Returns the entries of the sections, or all; a faulty models.txt stops the program with an error."""
    try:
        entries = manifest.read(chosen.models_file)
        return list(entries) if sections is None else manifest.of_sections(entries, sections)
    except BadList as exc:
        fail(str(exc), EXIT_USAGE)


if __name__ == "__main__":
    app()
