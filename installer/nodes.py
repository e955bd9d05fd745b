"""Node packs in ComfyUI's data folder: links to this repository's packs, and checkouts of pinned others."""

import os
from collections.abc import Iterable
from pathlib import Path

from installer import files, git
from installer.errors import SetupError
from installer.snapshot import GitNode


def link(place: Path, target: Path) -> None:
    """Makes ``place`` a relative link to ``target``.

    Raises:
        SetupError: ``place`` exists and is not a link; it is not changed.
    """
    words = _words(target, place)
    if place.is_symlink() and str(place.readlink()) == words:
        return
    if place.exists() and not place.is_symlink():
        raise SetupError(f"{place} is not a link, expected a link to {words}; move it away")
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(words)
    part.replace(place)


def link_packs(source: Path, folder: Path) -> int:
    """Links all packs of ``source`` into ``folder``, removes links to missing packs, returns the number of packs."""
    packs = [init.parent for init in sorted(source.glob("*/__init__.py"))]
    folder.mkdir(parents=True, exist_ok=True)
    for pack in packs:
        link(folder / pack.name, pack)
    for place in folder.iterdir():
        if not place.exists() and place.is_symlink() and str(place.readlink()) == _words(source / place.name, place):
            place.unlink()
    return len(packs)


def install_pinned(nodes: Iterable[GitNode], folder: Path) -> int:
    """Installs all enabled packs into ``folder`` at their commits and returns their number.

    Raises:
        SetupError: a pack cannot be fetched, or its folder is not a clean checkout.
    """
    enabled = [node for node in nodes if not node.disabled]
    for node in enabled:
        _install(node, folder / node.name)
    return len(enabled)


def install_disabled(nodes: Iterable[GitNode], folder: Path) -> list[Path]:
    """Installs the disabled packs into ``folder``, from which ComfyUI does not load, and returns their folders.

    Raises:
        SetupError: a pack cannot be fetched.
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
