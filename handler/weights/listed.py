"""Whether a weight file that is here is the one that models.txt lists."""

from pathlib import Path

from handler.settings import WeightSettings
from handler.weights import locate, manifest
from handler.weights.manifest import Entry, OnSize, WrongFile


def find(entry: Entry, settings: WeightSettings, on_size: OnSize = lambda _: None) -> locate.Found | None:
    """Returns the file that the entry describes, or None if it is missing or not that file.

    The size decides. If the list has only an estimate of it, the file is read and the hash decides.

    Args:
        on_size: called with the number of bytes read so far.
    """
    found = locate.find(entry.file, settings)
    if found is None:
        return None
    if not entry.is_rough:
        return found if _size(found.path) == entry.size_bytes else None
    try:
        manifest.check(entry, found.path, on_size)
    except WrongFile:
        return None
    return found


def verify(entry: Entry, settings: WeightSettings, on_size: OnSize = lambda _: None) -> locate.Found:
    """Reads the whole file and returns it.

    Args:
        on_size: called with the number of bytes read so far.

    Raises:
        WrongFile: the file is missing, cannot be read, or has another size or hash.
    """
    found = locate.find(entry.file, settings)
    if found is None:
        raise WrongFile("missing")
    manifest.check(entry, found.path, on_size)
    return found


def state(entry: Entry, settings: WeightSettings) -> tuple[str, locate.Found | None]:
    """Returns "present", "wrong size", "missing" or "N % downloaded", judged by sizes alone, and the file."""
    found = locate.find(entry.file, settings)
    if found is not None:
        return "present" if entry.fits(_size(found.path)) else "wrong size", found
    part = entry.part(settings.models_dir)
    if not locate.is_readable(part):
        return "missing", None
    return f"{min(99, 100 * _size(part) // entry.size_bytes)} % downloaded", None


def _size(path: Path) -> int:
    """Returns the size in bytes, or -1 if the file has just vanished."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
