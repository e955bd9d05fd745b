"""What `generate` prints: progress on standard error, and each picture's facts on standard output."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from handler.cli.outputs import STDOUT, Output
from handler.cli.sources import OnStep, Result
from handler.cli.terminal import EXIT_USAGE, errors, fail


class Report:
    """Prints what happens to the pictures."""

    def __init__(self, as_json: bool, is_shown: bool, is_short: bool, to_stderr: bool) -> None:
        """Chooses the form.

        Args:
            as_json: one JSON object a line.
            is_shown: also draw the pictures in the terminal.
            is_short: one line for each picture.
            to_stderr: standard output is the picture's.
        """
        self._as_json = as_json
        self._is_shown = is_shown
        self._is_short = is_short
        self._console = errors if to_stderr else Console(highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, number: int, total: int) -> Iterator[OnStep]:
        """Yields what shows the steps of one picture of `total`; the bars disappear afterwards."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
            if total > 1:
                bars.add_task("pictures", completed=number, total=total)
            task = bars.add_task("steps", total=None)
            yield lambda value, steps: bars.update(
                task, completed=value, total=steps, description="steps" if value < steps else "decoding"
            )

    def skipped(self, existing: Sequence[Output]) -> None:
        """Reports the pictures that are not drawn because they exist."""
        if existing:
            errors.print(f"{len(existing)} {'picture exists' if len(existing) == 1 else 'pictures exist'}")
        if self._as_json:
            for each in existing:
                self._console.print(json.dumps({"file": str(each.path), "skipped": True}), markup=False)

    def failed(self, output: Output, error: Exception) -> None:
        """Reports a picture of a list that could not be drawn."""
        errors.print(f"{output.path} failed: {error}", markup=False)

    def drawn(self, output: Output, result: Result) -> None:
        """Reports a picture that has been written."""
        size_bytes, info = len(result.encoded), result.info
        if self._as_json:
            line = json.dumps({"file": str(output.path), "size_bytes": size_bytes, **info})
            self._console.print(line, markup=False)
        else:
            name = "standard output" if output.path == STDOUT else str(output.path)
            picture = info.get("picture", info)  # absent from replies of workers before 0.2.0
            pixels = f"{picture['width']}x{picture['height']} RGBA"
            self._console.print(f"[bold]{name}[/bold]  {pixels}, {size_bytes / 1000:.0f} kB, seed {info['seed']}")
            if not self._is_short:
                self._details(info)
        if self._is_shown:
            from handler.cli import preview  # Pillow, which other pictures do not need

            preview.show(output.path)

    def sheet(self, drawn: Sequence[Output], path: Path) -> None:
        """Writes a contact sheet.

        Raises:
            CommandFailed: it cannot be written.
        """
        from handler.cli import preview

        try:
            preview.sheet([(each.path, str(each.request["prompt"])) for each in drawn], path)
        except OSError as exc:
            fail(f"{path} cannot be written: {exc.strerror or exc}", EXIT_USAGE)
        errors.print(f"{path}: {len(drawn)} pictures", markup=False)

    def _details(self, info: Mapping[str, Any]) -> None:
        alpha = info["alpha"]
        shares = f"{alpha['transparent']:.0%} of the pixels transparent, {alpha['opaque']:.0%} opaque"
        self._console.print(f"alpha: {shares}, mean {alpha['mean']:.2f}")
        match info.get("alpha_check"):  # absent from replies of workers before 0.2.0
            case {"reason": reason}:
                self._console.print(f"[yellow]not transparent, accepted:[/yellow] {reason}")
            case {"refused": {"seed": seed, "reason": reason}}:
                self._console.print(f"seed {seed} was refused: {reason}")
        self._console.print(f"model: {info['checkpoint']} (profile {info['profile']})")
        table = Table("stage", "seconds", box=None, pad_edge=False)
        for stage, seconds in info["seconds"].items():
            table.add_row(stage, f"{seconds:7.3f}")
        self._console.print(table)
