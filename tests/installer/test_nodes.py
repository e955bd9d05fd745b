"""Node packs are relative links or verified checkouts; the user's files are never deleted."""

from pathlib import Path

import pytest

from installer import nodes
from installer.errors import SetupError
from installer.snapshot import GitNode

Repository = tuple[str, str, str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("pack", "notes"):
        (tmp_path / "custom_nodes" / name).mkdir(parents=True)
    (tmp_path / "custom_nodes/pack/__init__.py").touch()
    return tmp_path / "custom_nodes"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_packs_are_linked_relatively(source: Path, tmp_path: Path) -> None:
    """Each folder with an __init__.py is linked relatively, so the repository can be moved."""
    assert nodes.link_packs(source, tmp_path / "data/custom_nodes") == 1
    assert names(tmp_path / "data/custom_nodes") == ["pack"]
    assert str((tmp_path / "data/custom_nodes/pack").readlink()) == "../../custom_nodes/pack"


@pytest.mark.parametrize("target", ["elsewhere", "/nowhere", "."])
def test_a_link_that_points_elsewhere_is_repaired(source: Path, tmp_path: Path, target: str) -> None:
    """A wrong or broken link is changed to point to the pack."""
    folder = tmp_path / "data/custom_nodes"
    folder.mkdir(parents=True)
    (folder / "pack").symlink_to(target)
    nodes.link_packs(source, folder)
    assert (folder / "pack/__init__.py").samefile(source / "pack/__init__.py")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_file_in_place_of_a_link_is_reported(source: Path, tmp_path: Path, kind: str) -> None:
    """A folder or file in place of a link is an error that names it, and it is not changed."""
    place = tmp_path / "data/custom_nodes/pack"
    place.mkdir(parents=True) if kind == "folder" else place.parent.mkdir(parents=True)
    kept = place / "work.py" if kind == "folder" else place
    kept.write_text("mine")
    with pytest.raises(SetupError, match=r"pack is not a link, expected a link to \.\./\.\./custom_nodes/pack"):
        nodes.link_packs(source, tmp_path / "data/custom_nodes")
    assert kept.read_text() == "mine"


def test_the_link_of_a_removed_pack_is_removed(source: Path, tmp_path: Path) -> None:
    """The link of a removed pack is removed; other broken links are kept."""
    folder = tmp_path / "data/custom_nodes"
    nodes.link_packs(source, folder)
    (folder / "foreign").symlink_to("/nowhere")
    (source / "pack").rename(source / "renamed")
    nodes.link_packs(source, folder)
    assert names(folder) == ["foreign", "renamed"]


def test_an_enabled_pack_is_installed_at_its_commit(repository: Repository, tmp_path: Path) -> None:
    """Enabled packs are checked out and follow the snapshot; a disabled one is only recorded."""
    folder = tmp_path / "data/custom_nodes"
    url, first, second = repository
    disabled = GitNode("https://example.invalid/other", first, True)
    for commit, text in ((first, "first"), (second, "second"), (second, "second")):
        assert nodes.install_pinned([GitNode(url, commit, False), disabled], folder) == 1
        assert (folder / "Pack/main.py").read_text() == text
    assert names(folder) == ["Pack"]


def test_a_disabled_pack_can_be_installed_separately(repository: Repository, tmp_path: Path) -> None:
    """A disabled pack is checked out at its commit into a separate folder, without the enabled ones."""
    url, first, _ = repository
    enabled = GitNode("https://example.invalid/other", first, False)
    assert nodes.install_disabled([GitNode(url, first, True), enabled], tmp_path / "upstream") == [
        tmp_path / "upstream/Pack"
    ]
    assert (tmp_path / "upstream/Pack/main.py").read_text() == "first"


@pytest.mark.parametrize("own", ["main.py", "own.cfg"])
def test_a_checkout_with_changes_is_reported(repository: Repository, tmp_path: Path, own: str) -> None:
    """A checkout that must change but has edits or untracked files is an error, and it is not changed."""
    folder = tmp_path / "custom_nodes"
    url, first, second = repository
    nodes.install_pinned([GitNode(url, first, False)], folder)
    (folder / "Pack" / own).write_text("mine")
    with pytest.raises(SetupError, match=r"Pack is at commit .* move it away"):
        nodes.install_pinned([GitNode(url, second, False)], folder)
    assert (folder / "Pack" / own).read_text() == "mine"


def test_a_folder_in_place_of_a_pack_is_reported(repository: Repository, tmp_path: Path) -> None:
    """A folder that is not a checkout is an error that names it, and it is not changed."""
    (tmp_path / "custom_nodes/Pack").mkdir(parents=True)
    with pytest.raises(SetupError, match="Pack is not a git checkout"):
        nodes.install_pinned([GitNode(repository[0], repository[1], False)], tmp_path / "custom_nodes")
    assert (tmp_path / "custom_nodes/Pack").is_dir()
