"""Small file operations that never leave incomplete files."""

import hashlib
import shutil
from pathlib import Path


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces the file's content in one step."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.chmod(mode)
    part.replace(path)


def sha256(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_tree(folder: Path) -> None:
    """Removes the folder if it exists; a link is removed, never followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def replace_tree(part: Path, folder: Path) -> None:
    """Replaces ``folder`` by the finished folder ``part``."""
    remove_tree(folder)
    part.replace(folder)
