"""Fingerprints of a folder's files."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from installer import files

IGNORED = frozenset({"__pycache__", ".git"})


def fingerprints(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file by its relative path, in order; __pycache__ and .git are ignored.

    A link is hashed as the text ``link to`` and its target, so that it differs from every file.
    """
    return {path: _fingerprint(folder / path) for path in sorted(_paths(folder))}


def digest(prints: Mapping[str, str]) -> str:
    """Returns one SHA-256 over all paths and contents."""
    lines = "".join(f"{prints[path]}  {path}\n" for path in sorted(prints))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def difference(expected: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """Returns the first file that is missing, changed or extra, in words, or None if the trees are equal."""
    for path in sorted(expected.keys() | found.keys()):
        if path not in found:
            return f"{path} is missing"
        if path not in expected:
            return f"{path} is extra"
        if found[path] != expected[path]:
            return f"{path} was changed"
    return None


def _paths(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if (path.is_symlink() or not path.is_dir()) and IGNORED.isdisjoint(relative.parts):
            yield relative.as_posix()


def _fingerprint(path: Path) -> str:
    return f"link to {path.readlink()}" if path.is_symlink() else files.sha256(path)
