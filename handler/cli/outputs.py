"""Where `generate` writes its pictures."""

import contextlib
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.cli.terminal import EXIT_USAGE, fail

STDOUT = Path("-")
SUFFIXES = (".png", ".webp")
NAME_CHARACTERS = 40  # of the prompt, in the name of a file in a folder
DIGEST_CHARACTERS = 8


@dataclass(frozen=True)
class Output:
    """The file of one picture.

    Attributes:
        path: its name; STDOUT is standard output.
        request: the request of the picture.
        is_named_after_request: an existing file of this name is the picture of this request.
    """

    path: Path
    request: Mapping[str, Any]
    is_named_after_request: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the picture was drawn by an earlier call."""
        return self.is_named_after_request and self.path.is_file()

    def check(self) -> None:
        """Raises CommandFailed if the file cannot be written; creates the folder if it is missing."""
        if self.path == STDOUT:
            return
        try:
            if self.is_named_after_request:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch()
            self._part.unlink()
        except OSError as exc:
            fail(f"{self.path} cannot be written: {exc.strerror}", EXIT_USAGE)

    def write(self, encoded: bytes) -> None:
        """Writes the picture; the file appears when it is complete.

        Raises:
            CommandFailed: it cannot be written.
        """
        if self.path == STDOUT:
            sys.stdout.buffer.write(encoded)
            sys.stdout.flush()
            return
        try:
            self._part.write_bytes(encoded)
            self._part.replace(self.path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
            fail(f"{self.path} cannot be written: {exc.strerror}", EXIT_USAGE)

    @property
    def _part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")


def plan(output: Path, requests: Sequence[Mapping[str, Any]]) -> list[Output]:
    """Returns the file of each request.

    Args:
        output: a file, which is numbered if there are several requests, after those that exist; a folder, in which
            each file is named after its request; or STDOUT, for one request.

    Raises:
        CommandFailed: the name is not a possible one.
    """
    if output == STDOUT:
        if len(requests) > 1:
            fail(f"-o - writes one picture, and there are {len(requests)}; name a folder", EXIT_USAGE)
        return [Output(STDOUT, requests[0])]
    if output.is_dir() or not output.suffix:
        return _in_folder(output, requests)
    format_ = output.suffix.lower().removeprefix(".")
    if output.suffix.lower() not in SUFFIXES:
        fail(f"{output} must end in .png or .webp, or be a folder", EXIT_USAGE)
    for request in requests:
        if request.get("output_format", format_) != format_:
            fail(f"{output} does not fit the format {request['output_format']}", EXIT_USAGE)
    written = [{**request, **({} if format_ == "png" else {"output_format": format_})} for request in requests]
    if len(written) == 1:
        return [Output(output, written[0])]
    first = _next_number(output)
    return [Output(output.with_stem(f"{output.stem}-{n}"), request) for n, request in enumerate(written, first)]


def check_sheet(path: Path) -> None:
    """Raises CommandFailed if the name of a contact sheet is not that of a picture in an existing folder."""
    if path.suffix.lower() not in (*SUFFIXES, ".jpg", ".jpeg"):
        fail(f"{path} must end in .png, .webp or .jpg", EXIT_USAGE)
    if not path.parent.is_dir():
        fail(f"{path} cannot be written: {path.parent} is not a folder", EXIT_USAGE)


def _next_number(output: Path) -> int:
    """Returns one more than the highest number of the numbered files of this name, from 1."""
    numbered = re.compile(rf"{re.escape(output.stem)}-([0-9]+){re.escape(output.suffix)}")
    names = [path.name for path in output.parent.iterdir()] if output.parent.is_dir() else []
    return 1 + max((int(found[1]) for name in names if (found := numbered.fullmatch(name))), default=0)


def _in_folder(folder: Path, requests: Sequence[Mapping[str, Any]]) -> list[Output]:
    """Names depend only on the request, so that a line may be added to a list without drawing the others again."""
    seen: Counter[str] = Counter()
    found = []
    for request in requests:
        identity = json.dumps(request, sort_keys=True)
        digest = hashlib.sha256(f"{seen[identity]} {identity}".encode()).hexdigest()[:DIGEST_CHARACTERS]
        seen[identity] += 1
        words = re.sub(r"\W+", "-", str(request.get("prompt", "")).lower()).strip("-_")[:NAME_CHARACTERS].rstrip("-_")
        name = f"{words or 'picture'}-{digest}.{request.get('output_format', 'png')}"
        found.append(Output(folder / name, request, is_named_after_request=True))
    return found
