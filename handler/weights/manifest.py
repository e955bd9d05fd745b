"""models.txt: the weight files that can be downloaded, and how to check one."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import httpx

from handler.workflow.workflow import ModelFile

DEFAULT_SECTION = "sdxl"
HUB = "https://huggingface.co"
CHUNK_BYTES = 1 << 20
SECTION = re.compile(r"\[([a-z0-9_-]+)\]")
SHA256 = re.compile(r"[0-9a-f]{64}")
SIZE = re.compile(r"(~?)([1-9][0-9]{0,14})")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")

OnSize = Callable[[int], None]


class BadList(Exception):
    """models.txt cannot be used; the message has every fault with its line number."""


class WrongFile(Exception):
    """A weight file is missing, or is not the listed one."""


@dataclass(frozen=True)
class Entry:
    """A weight file: one line of models.txt.

    Attributes:
        size_bytes: exact size, or an estimate if `is_rough`.
        path: relative to the models folder.
        urls: its addresses, in the order in which they are tried.
    """

    section: str
    sha256: str
    size_bytes: int
    is_rough: bool
    path: PurePosixPath
    urls: tuple[str, ...]

    def __str__(self) -> str:
        return f"models/{self.path}"

    @property
    def file(self) -> ModelFile:
        """The file by the folder and name that workflows use."""
        return ModelFile(str(self.path.parent), self.path.name)

    @property
    def max_bytes(self) -> int:
        """The maximum size of the file."""
        return self.size_bytes * 5 // 4 if self.is_rough else self.size_bytes

    def fits(self, size_bytes: int) -> bool:
        """Returns whether the file can have this size."""
        return size_bytes <= self.max_bytes if self.is_rough else size_bytes == self.size_bytes

    def target(self, models_dir: Path) -> Path:
        """Returns the path that the file is downloaded to."""
        return models_dir / self.path

    def part(self, models_dir: Path) -> Path:
        """Returns the path of the file while it is incomplete."""
        target = self.target(models_dir)
        return target.with_name(target.name + ".part")


def read(path: Path) -> tuple[Entry, ...]:
    """Returns the entries of a file in the format of models.txt.

    Raises:
        BadList: the file cannot be read, or has a fault.
    """
    try:
        return parse(path.read_text("utf-8"))
    except OSError as exc:
        raise BadList(f"{path.name} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise BadList(f"{path.name} is not UTF-8") from exc


def parse(text: str) -> tuple[Entry, ...]:
    """Returns the entries of the text of a models.txt, in its order.

    Raises:
        BadList: with every fault and its line number.
    """
    entries: list[Entry] = []
    faults: list[str] = []
    lines_of: dict[str, int] = {}  # by lower-case path: some file systems ignore case
    section = None
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            if fields[0].startswith("["):
                section = _section(line.strip())
                continue
            entry = _entry(section, fields)
        except ValueError as exc:
            faults.append(f"line {number}: {exc}")
            continue
        first = lines_of.setdefault(str(entry.path).lower(), number)
        if first == number:
            entries.append(entry)
        else:
            faults.append(f"line {number}: {entry.path} is already listed in line {first}")
    if faults:
        raise BadList(f"models.txt: {'; '.join(faults)}")
    return tuple(entries)


def of_sections(entries: Iterable[Entry], sections: Sequence[str]) -> list[Entry]:
    """Returns the entries of the named sections.

    Raises:
        BadList: a section does not exist.
    """
    entries = list(entries)
    known = sorted({entry.section for entry in entries})
    if unknown := sorted(set(sections) - set(known)):
        raise BadList(f"models.txt has no section {', '.join(unknown)}, expected {' or '.join(known)}")
    return [entry for entry in entries if entry.section in sections]


def check(entry: Entry, path: Path, on_size: OnSize = lambda _: None) -> None:
    """Reads a whole file and compares it with its entry.

    Args:
        on_size: called with the number of bytes read so far.

    Raises:
        WrongFile: the file is missing, cannot be read, or has another size or hash.
    """
    try:
        size_bytes = path.stat().st_size
        if not entry.is_rough and size_bytes != entry.size_bytes:
            raise WrongFile(f"size is {size_bytes} bytes, expected {entry.size_bytes}")
        with path.open("rb") as file:
            digest, _ = digest_of(file, on_size)
    except FileNotFoundError as exc:
        raise WrongFile("missing") from exc
    except OSError as exc:
        raise WrongFile(f"cannot be read: {exc.strerror}") from exc
    if digest.hexdigest() != entry.sha256:
        raise WrongFile(f"sha256 is {digest.hexdigest()}, expected {entry.sha256}")


def digest_of(file: BinaryIO, on_size: OnSize = lambda _: None) -> tuple["hashlib._Hash", int]:
    """Returns the SHA-256 of the rest of the file, which can be continued, and the number of bytes hashed."""
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        on_size(size_bytes)
    return digest, size_bytes


def _section(line: str) -> str:
    found = SECTION.fullmatch(line)
    if not found:
        raise ValueError(f"a section must be lower-case letters, digits, - and _ in brackets, got {line!r}")
    return found[1]


def _entry(section: str | None, fields: Sequence[str]) -> Entry:
    if section is None:
        raise ValueError("is before the first [section]")
    if len(fields) < 4:
        raise ValueError(f"must have sha256, size, path and URL, got {len(fields)} fields")
    sha256, size, path, *urls = fields
    if not SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 must be 64 lower-case hexadecimal digits, got {sha256!r}")
    size_parts = SIZE.fullmatch(size)
    if not size_parts:
        raise ValueError(f'size must be a number of bytes, after "~" if it is an estimate, got {size!r}')
    if not all(NAME.fullmatch(part) for part in path.split("/")):
        raise ValueError(f"path must be names below models/, separated by /, got {path!r}")
    for url in urls:
        _check_url(url)
    return Entry(section, sha256, int(size_parts[2]), bool(size_parts[1]), PurePosixPath(path), tuple(urls))


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise ValueError(f"URL {url!r} is invalid: {exc}") from exc
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"URL must begin with http:// or https:// and a host, got {url!r}")
