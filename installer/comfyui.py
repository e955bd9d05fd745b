"""Installs the ComfyUI that snapshot.json pins, records its files, and compares them on every run."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from installer import files, git, sdist, tree
from installer.errors import SetupError, SourceUnavailable


@dataclass(frozen=True)
class Record:
    """What was installed: the commit, its source, and the fingerprint of every file."""

    commit: str
    source: str
    archive_sha256: str | None
    tree_sha256: str
    files: dict[str, str]


@dataclass(frozen=True)
class Tree:
    """The folder of the tree, and the sources it can come from."""

    folder: Path
    url: str
    commit: str
    python: Path
    source_lock: Path

    @property
    def record(self) -> Path:
        """The file with the record of ``folder``."""
        return self.folder.with_name(self.folder.name + ".json")

    @property
    def part(self) -> Path:
        """The folder in which a new tree is built."""
        return self.folder.with_name(self.folder.name + ".part")

    @property
    def downloads(self) -> Path:
        """The folder of the archive while it is unpacked."""
        return self.folder.with_name(self.folder.name + ".download")


def ensure(comfyui: Tree, say: Callable[[str], None]) -> str:
    """Installs the tree again if it differs from the record or the pin; returns the result in words."""
    fault = find_fault(comfyui)
    if fault is None:
        return "ok " + _summary(read_record(comfyui.record))
    say(f"{fault}, installing")
    return "installed " + _summary(install(comfyui, say))


def find_fault(comfyui: Tree) -> str | None:
    """Returns how the tree differs from the record or the pin, or None if it does not."""
    if not comfyui.folder.is_dir():
        return "missing"
    try:
        record = read_record(comfyui.record)
    except SetupError as exc:
        return str(exc)
    if record.commit != comfyui.commit:
        return f"is commit {record.commit}, snapshot.json has {comfyui.commit}"
    return tree.difference(record.files, tree.fingerprints(comfyui.folder))


def install(comfyui: Tree, say: Callable[[str], None]) -> Record:
    """Installs the pinned commit with git or, if the host does not answer, from the archive."""
    files.remove_tree(comfyui.part)
    try:
        git.fetch(comfyui.url, comfyui.commit, comfyui.part)
        git.verify(comfyui.commit, comfyui.part)
        source, archive_sha256 = "git", None
    except SourceUnavailable as exc:
        say(f"{exc}; using the archive in {comfyui.source_lock.name}")
        source, archive_sha256 = "sdist", _unpack_archive(comfyui)
    prints = tree.fingerprints(comfyui.part)
    record = Record(comfyui.commit, source, archive_sha256, tree.digest(prints), prints)
    comfyui.record.unlink(missing_ok=True)
    files.replace_tree(comfyui.part, comfyui.folder)
    files.write_atomically(comfyui.record, json.dumps(asdict(record), indent=1) + "\n")
    return record


def read_record(path: Path) -> Record:
    """Returns the record in the file.

    Raises:
        SetupError: it is missing or unreadable, or its digest does not match its files.
    """
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        if tree.digest(record.files) == record.tree_sha256:
            return record
    except FileNotFoundError as exc:
        raise SetupError(f"has no record {path.name}") from exc
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise SetupError(f"has an unreadable record {path.name}") from exc
    raise SetupError(f"has a record {path.name} whose tree_sha256 does not match its files")


def _unpack_archive(comfyui: Tree) -> str:
    files.remove_tree(comfyui.part)
    try:
        archive = sdist.download(comfyui.python, comfyui.source_lock, comfyui.downloads)
        sdist.unpack(archive, comfyui.commit, comfyui.part)
        return files.sha256(archive)
    finally:
        files.remove_tree(comfyui.downloads)


def _summary(record: Record) -> str:
    return f"({record.commit[:8]} from {record.source}, {len(record.files)} files)"
