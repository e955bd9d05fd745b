"""models.txt: which weight files there are and where from, and whether they are here and whole."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import httpx

DEFAULT_SECTION = "sdxl"
CHUNK_BYTES = 1 << 20
SECTION = re.compile(r"\[([a-z0-9_-]+)\]")
SHA256 = re.compile(r"[0-9a-f]{64}")
SIZE = re.compile(r"(~?)([1-9][0-9]{0,14})")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")

OnSize = Callable[[int], None]


class BadList(Exception):
    """models.txt is not what its head says; the message has every fault and its line."""


class WrongFile(Exception):
    """A weight file is missing, or is another than the listed one."""


@dataclass(frozen=True)
class Entry:
    """A weight file, as a line of models.txt has it.

    Attributes:
        size_bytes: its size; about so much where `is_rough`.
        path: below the models folder.
        urls: where it is, in the order to try.
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
    def most_bytes(self) -> int:
        """The largest size that the file may have."""
        return self.size_bytes * 5 // 4 if self.is_rough else self.size_bytes

    def place(self, models_dir: Path) -> Path:
        """Returns where the file belongs."""
        return models_dir / self.path

    def part(self, models_dir: Path) -> Path:
        """Returns where the file grows while it is fetched."""
        place = self.place(models_dir)
        return place.with_name(place.name + ".part")


def read(path: Path) -> tuple[Entry, ...]:
    """Returns the entries of the file.

    Raises:
        BadList: it cannot be read, or has a fault.
    """
    try:
        return parse(path.read_text("utf-8"))
    except OSError as exc:
        raise BadList(f"{path.name} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise BadList(f"{path.name} is not UTF-8") from exc


def parse(text: str) -> tuple[Entry, ...]:
    """Returns the entries of a models.txt, in its order.

    Raises:
        BadList: with every fault and its line.
    """
    entries: list[Entry] = []
    faults: list[str] = []
    lines_of: dict[str, int] = {}  # by path without case, which some file systems do not tell apart
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
            faults.append(f"line {number}: {entry.path} is in line {first} already")
    if faults:
        raise BadList(f"models.txt: {'; '.join(faults)}")
    return tuple(entries)


def of_sections(entries: Iterable[Entry], sections: Sequence[str]) -> list[Entry]:
    """Returns the entries of the named sections.

    Raises:
        BadList: there is no such section.
    """
    entries = list(entries)
    known = sorted({entry.section for entry in entries})
    if unknown := sorted(set(sections) - set(known)):
        raise BadList(f"models.txt has no section {', '.join(unknown)}, expected {' or '.join(known)}")
    return [entry for entry in entries if entry.section in sections]


def verify(entry: Entry, models_dir: Path, on_size: OnSize = lambda _: None) -> None:
    """Reads the whole file and compares it with its entry.

    Args:
        on_size: told how many bytes are read.

    Raises:
        WrongFile: it is missing, cannot be read, or is another.
    """
    place = entry.place(models_dir)
    try:
        size_bytes = place.stat().st_size
        if not entry.is_rough and size_bytes != entry.size_bytes:
            raise WrongFile(f"has {size_bytes} bytes, expected {entry.size_bytes}")
        with place.open("rb") as file:
            digest, _ = digest_of(file, on_size)
    except FileNotFoundError as exc:
        raise WrongFile("is missing") from exc
    except OSError as exc:
        raise WrongFile(f"cannot be read: {exc.strerror}") from exc
    if digest.hexdigest() != entry.sha256:
        raise WrongFile(f"has sha256 {digest.hexdigest()}, expected {entry.sha256}")


def is_here(entry: Entry, models_dir: Path) -> bool:
    """Returns whether the file is there: by its size, or by its hash where the list has no exact size."""
    size_bytes = _size(entry.place(models_dir))
    if size_bytes is None or not entry.is_rough:
        return size_bytes == entry.size_bytes
    try:
        verify(entry, models_dir)
    except WrongFile:
        return False
    return True


def state(entry: Entry, models_dir: Path) -> str:
    """Returns in a word or two what is there, by sizes alone."""
    size_bytes = _size(entry.place(models_dir))
    if size_bytes is not None:
        fits = size_bytes <= entry.most_bytes if entry.is_rough else size_bytes == entry.size_bytes
        return "here" if fits else "wrong size"
    part_bytes = _size(entry.part(models_dir))
    return "missing" if part_bytes is None else f"{min(99, 100 * part_bytes // entry.size_bytes)} % fetched"


def digest_of(file: BinaryIO, on_size: OnSize = lambda _: None) -> tuple["hashlib._Hash", int]:
    """Returns the SHA-256 of what is left to read in the file, ready to go on with, and how many bytes that is."""
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        on_size(size_bytes)
    return digest, size_bytes


def _size(path: Path) -> int | None:
    """Returns the size in bytes of a file, or None where there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _section(line: str) -> str:
    found = SECTION.fullmatch(line)
    if not found:
        raise ValueError(f"a section must be small letters, digits, - and _ in brackets, got {line!r}")
    return found[1]


def _entry(section: str | None, fields: Sequence[str]) -> Entry:
    if section is None:
        raise ValueError("stands before the first [section]")
    if len(fields) < 4:
        raise ValueError(f"must have sha256, size, path and URL, got {len(fields)} fields")
    sha256, size, path, *urls = fields
    if not SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits in small letters, got {sha256!r}")
    size_parts = SIZE.fullmatch(size)
    if not size_parts:
        raise ValueError(f'size must be a number of bytes, with "~" in front where it is rough, got {size!r}')
    if not all(NAME.fullmatch(part) for part in path.split("/")):
        raise ValueError(f"path must be names below models/, separated by /, got {path!r}")
    for url in urls:
        _check_url(url)
    return Entry(section, sha256, int(size_parts[2]), bool(size_parts[1]), PurePosixPath(path), tuple(urls))


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise ValueError(f"URL {url!r} is none: {exc}") from exc
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"URL must begin with http:// or https:// and a host, got {url!r}")
