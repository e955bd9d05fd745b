"""The git source delivers exactly the requested commit, or says why not."""

from pathlib import Path

import pytest

from installer import git
from installer.errors import SetupError, SourceUnavailable

Repository = tuple[str, str, str]


@pytest.mark.parametrize("which", [1, 2])
def test_the_requested_commit_is_installed(repository: Repository, tmp_path: Path, which: int) -> None:
    """Any commit of the repository, not only the newest, is fetched completely and verified."""
    commit = repository[which]
    git.install(repository[0], commit, tmp_path / "part", tmp_path / "place/pack")
    assert (tmp_path / "place/pack/main.py").read_text() == ("first", "second")[which - 1]
    assert git.fault(commit, tmp_path / "place/pack") is None
    assert not (tmp_path / "part").exists()


def test_an_unknown_commit_is_rejected(repository: Repository, tmp_path: Path) -> None:
    """An unknown commit is an error that names it; no other source is tried, and no pack is left."""
    with pytest.raises(SetupError, match=f"does not have commit {'b' * 40}") as caught:
        git.install(repository[0], "b" * 40, tmp_path / "part", tmp_path / "pack")
    assert not isinstance(caught.value, SourceUnavailable)
    assert not (tmp_path / "pack").exists()


def test_a_checkout_of_another_commit_is_a_fault(repository: Repository, tmp_path: Path) -> None:
    """A checkout of one commit does not pass as another one."""
    git.fetch(repository[0], repository[1], tmp_path / "pack")
    assert git.fault(repository[2], tmp_path / "pack") == f"is at commit {repository[1]}, expected {repository[2]}"
    with pytest.raises(SetupError, match="pack is at commit"):
        git.verify(repository[2], tmp_path / "pack")


def test_a_changed_file_is_a_fault(repository: Repository, tmp_path: Path) -> None:
    """An edit in the checkout is detected; an untracked file is not an edit."""
    git.fetch(repository[0], repository[1], tmp_path / "pack")
    (tmp_path / "pack/own.cfg").touch()
    assert git.fault(repository[1], tmp_path / "pack") is None
    (tmp_path / "pack/main.py").write_text("edited")
    assert git.fault(repository[1], tmp_path / "pack") == "was changed: M main.py"


def test_an_incomplete_checkout_is_made_again(repository: Repository, tmp_path: Path) -> None:
    """The remains of an interrupted fetch do not end up in the pack."""
    (tmp_path / "part/.git").mkdir(parents=True)
    (tmp_path / "part/junk.py").touch()
    git.install(repository[0], repository[2], tmp_path / "part", tmp_path / "pack")
    assert not (tmp_path / "pack/junk.py").exists()
    assert git.fault(repository[2], tmp_path / "pack") is None


def test_a_host_without_answer_is_unavailable(tmp_path: Path) -> None:
    """If the connection is refused, another source can be tried."""
    with pytest.raises(SourceUnavailable, match="git: "):
        git.fetch("http://127.0.0.1:9/pack", "a" * 40, tmp_path / "pack")


def test_a_machine_without_git_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If git is not installed, another source can be tried."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceUnavailable, match="git is not installed"):
        git.fetch("https://example.invalid/pack", "a" * 40, tmp_path / "pack")


def test_git_s_own_environment_does_not_leak_in(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setup that is started by a git hook does not change the hook's repository."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "foreign"))
    git.fetch(repository[0], repository[1], tmp_path / "pack")
    assert git.fault(repository[1], tmp_path / "pack") is None
    assert not (tmp_path / "foreign").exists()
