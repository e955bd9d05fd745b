"""Node packs in ComfyUI's data folder: links to this repository's own, checkouts of pinned others."""

import os
from collections.abc import Iterable
from pathlib import Path

from installer import files, git
from installer.errors import SetupError
from installer.snapshot import GitNode


def link(place: Path, target: Path) -> None:
    """Make ``place`` a relative link to ``target``.

    Raises:
        SetupError: something else than a link is there; it is left alone.
    """
    words = _words(target, place)
    if place.is_symlink() and str(place.readlink()) == words:
        return
    if place.exists() and not place.is_symlink():
        raise SetupError(f"{place} is no link, expected a link to {words}; move it away")
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(words)
    part.replace(place)


def link_packs(source: Path, folder: Path) -> int:
    """Number of packs in ``source``, all linked into ``folder``; links to packs that are gone are removed."""
    packs = [init.parent for init in sorted(source.glob("*/__init__.py"))]
    folder.mkdir(parents=True, exist_ok=True)
    for pack in packs:
        link(folder / pack.name, pack)
    for place in folder.iterdir():
        if not place.exists() and place.is_symlink() and str(place.readlink()) == _words(source / place.name, place):
            place.unlink()
    return len(packs)


def install_pinned(nodes: Iterable[GitNode], folder: Path) -> int:
    """Number of enabled packs, all in ``folder`` at their commit.

    Raises:
        SetupError: the pack cannot be had, or a folder that is no clean checkout is in its place.
    """
    enabled = [node for node in nodes if not node.disabled]
    for node in enabled:
        _install(node, folder / node.name)
    return len(enabled)


def install_disabled(nodes: Iterable[GitNode], folder: Path) -> list[Path]:
    """Checkouts of the disabled packs at their commits, in ``folder``, from where ComfyUI does not load them.

    Raises:
        SetupError: a pack cannot be had.
    """
    places = {folder / node.name: node for node in nodes if node.disabled}
    folder.mkdir(parents=True, exist_ok=True)
    for place, node in places.items():
        _install(node, place)
    return list(places)


def _install(node: GitNode, place: Path) -> None:
    fault = git.fault(node.commit, place)
    if fault is None:
        return
    if not _replaceable(place):
        raise SetupError(f"{place} {fault}, expected {node.url} at {node.commit}; move it away")
    part = place.parent.with_name(f"{node.name}.part")
    git.install(node.url, node.commit, part, place)
    files.remove_tree(part)


def _replaceable(place: Path) -> bool:
    return not os.path.lexists(place) or git.is_clean(place)


def _words(target: Path, place: Path) -> str:
    return os.path.relpath(target, place.parent)
