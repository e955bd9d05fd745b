"""What `generate` draws: prompts from the command line, a file or standard input, with their parameters."""

import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.cli.fields import Fields
from handler.cli.terminal import EXIT_USAGE, fail

STDIN = "-"
PROMPT = "prompt"


def requests(
    prompts: Sequence[str], file: Path | None, options: Mapping[str, Any], count: int, fields: Fields
) -> list[dict[str, Any]]:
    """Returns the request of each picture.

    Args:
        prompts: from the command line; "-" reads one prompt a line from standard input.
        file: text, one prompt a line, or CSV, whose columns are parameters; None if there is none.
        options: parameters of all pictures. A cell of the file takes precedence, an empty one does not.
        count: pictures of each prompt; a seed counts up.

    Raises:
        CommandFailed: the file cannot be read, is empty, or is not in this form.
    """
    found: list[Mapping[str, Any]] = [{PROMPT: prompt} for prompt in prompts if prompt != STDIN]
    if STDIN in prompts:
        found += _lines(_decoded(sys.stdin.buffer.read(), "standard input"))
    if file is not None:
        found += _of_file(file)
    if not found:
        fail(f"{file or 'standard input'} has no prompts", EXIT_USAGE)
    common = fields.request(options)
    return [_numbered(common | fields.request(each), number) for each in found for number in range(count)]


def _numbered(request: dict[str, Any], number: int) -> dict[str, Any]:
    seed = request.get("seed")
    return {**request, "seed": seed + number} if isinstance(seed, int) else request


def _of_file(file: Path) -> list[dict[str, Any]]:
    try:
        text = _decoded(file.read_bytes(), str(file))
    except OSError as exc:
        fail(f"{file} cannot be read: {exc.strerror}", EXIT_USAGE)
    return list(_rows(text, file)) if file.suffix.lower() == ".csv" else _lines(text)


def _decoded(encoded: bytes, name: str) -> str:
    try:
        return encoded.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        fail(f"{name} is not UTF-8: byte {exc.start}", EXIT_USAGE)


def _lines(text: str) -> list[dict[str, Any]]:
    return [{PROMPT: line.strip()} for line in text.splitlines() if line.strip()]


def _rows(text: str, file: Path) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        if PROMPT not in (reader.fieldnames or ()):
            fail(f"{file} has no column named {PROMPT} in its first line", EXIT_USAGE)
        for row in reader:
            if None in row:
                fault = "more cells than columns; quote a prompt that has commas"
                fail(f"{file} line {reader.line_num}: {fault}", EXIT_USAGE)
            yield {column: cell for column, cell in row.items() if cell}
    except csv.Error as exc:
        fail(f"{file} line {reader.line_num}: {exc}", EXIT_USAGE)
