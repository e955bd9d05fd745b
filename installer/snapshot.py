"""Reads snapshot.json (ComfyUI-Manager's format) strictly: exactly what it names is installed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from installer.errors import SetupError

COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"https://[A-Za-z0-9.-]+(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
KEYS = ("comfyui", "git_custom_nodes", "cnr_custom_nodes", "file_custom_nodes", "pips")
# These would not be pinned by content, so they must be empty.
EMPTY: Mapping[str, object] = {"cnr_custom_nodes": {}, "file_custom_nodes": [], "pips": {}}


@dataclass(frozen=True)
class GitNode:
    """A node pack at one commit of a git repository."""

    url: str
    commit: str
    disabled: bool

    @property
    def name(self) -> str:
        """Folder name of the pack: the last part of its URL."""
        return self.url.rsplit("/", 1)[-1].removesuffix(".git")


@dataclass(frozen=True)
class Snapshot:
    """ComfyUI's commit and the node packs."""

    comfyui: str
    git_nodes: tuple[GitNode, ...]


def parse(text: str) -> Snapshot:
    """Returns the snapshot that the JSON text describes.

    Raises:
        SetupError: with the first key that is missing, unknown or wrong.
    """
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except ValueError as exc:
        raise SetupError(f"snapshot.json is not JSON: {exc}") from exc
    members = _object("the document", document)
    _keys("the document", members, KEYS)
    for key, empty in EMPTY.items():
        if members[key] != empty:
            raise SetupError(f"snapshot.json: {key} must be {json.dumps(empty)}, only git_custom_nodes are installed")
    return Snapshot(_commit("comfyui", members["comfyui"]), _git_nodes(members["git_custom_nodes"]))


def _git_nodes(found: object) -> tuple[GitNode, ...]:
    nodes: dict[str, GitNode] = {}
    for url, value in _object("git_custom_nodes", found).items():
        node = _git_node(url, value)
        other = nodes.setdefault(node.name.lower(), node)
        if other is not node:
            raise SetupError(f"snapshot.json: git_custom_nodes has two packs named {node.name}: {other.url}, {url}")
    return tuple(nodes.values())


def _git_node(url: str, found: object) -> GitNode:
    where = f"git_custom_nodes.{url}"
    if not REPOSITORY.fullmatch(url):
        raise SetupError(f"snapshot.json: {where} must be an https address of a git repository")
    members = _object(where, found)
    _keys(where, members, ("hash", "disabled"))
    disabled = members["disabled"]
    if not isinstance(disabled, bool):
        raise SetupError(f"snapshot.json: {where}.disabled must be true or false, got {json.dumps(disabled)}")
    return GitNode(url, _commit(f"{where}.hash", members["hash"]), disabled)


def _object(where: str, found: object) -> dict[str, object]:
    if not isinstance(found, dict):
        raise SetupError(f"snapshot.json: {where} must be an object, got {json.dumps(found)}")
    return found


def _keys(where: str, members: Mapping[str, object], expected: tuple[str, ...]) -> None:
    for key in expected:
        if key not in members:
            raise SetupError(f"snapshot.json: {where} lacks the key {key}")
    for key in members:
        if key not in expected:
            raise SetupError(f"snapshot.json: {where} has the unknown key {key}")


def _commit(where: str, found: object) -> str:
    if not isinstance(found, str) or not COMMIT.fullmatch(found):
        raise SetupError(f"snapshot.json: {where} must be 40 lower-case hexadecimal digits, got {json.dumps(found)}")
    return found


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {twice} appears twice")
    return members
