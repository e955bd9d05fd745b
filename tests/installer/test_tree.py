"""A tree's fingerprints show every difference that matters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from installer import tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").write_text("main")
    (tmp_path / "comfy/sd.py").write_text("sd")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "main.py").write_text("mian"), "main.py was changed"),
        (lambda folder: (folder / "comfy/sd.py").unlink(), "comfy/sd.py is missing"),
        (lambda folder: (folder / "comfy/new.py").touch(), "comfy/new.py is extra"),
        (lambda folder: (folder / "link").symlink_to("comfy"), "link is extra"),
        (lambda folder: (folder / "main.py").rename(folder / "other.py"), "main.py is missing"),
    ],
)
def test_a_difference_is_found_and_named(folder: Path, change: Callable[[Path], object], words: str) -> None:
    """A changed, missing, extra or moved file changes the digest and is named."""
    before = tree.fingerprints(folder)
    change(folder)
    after = tree.fingerprints(folder)
    assert tree.difference(before, after) == words
    assert tree.digest(before) != tree.digest(after)


def test_a_file_replaced_by_a_link_to_its_copy_is_changed(folder: Path) -> None:
    """A link is not the file that it points to."""
    before = tree.fingerprints(folder)
    (folder / "main.py").rename(folder.parent / "copy.py")
    (folder / "main.py").symlink_to(folder.parent / "copy.py")
    assert tree.difference(before, tree.fingerprints(folder)) == "main.py was changed"


def test_bytecode_and_git_do_not_count(folder: Path) -> None:
    """Files that Python and git add do not change the digest."""
    before = tree.fingerprints(folder)
    for name in ("comfy/__pycache__", ".git"):
        (folder / name).mkdir()
        (folder / name / "anything").touch()
    assert tree.difference(before, tree.fingerprints(folder)) is None
    assert tree.digest(before) == tree.digest(tree.fingerprints(folder))
