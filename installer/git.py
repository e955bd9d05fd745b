"""Fetches one commit of a git repository without history and verifies it."""

import os
import shutil
from pathlib import Path

from installer import command, files
from installer.errors import SetupError, SourceUnavailable

ANSWER_TIMEOUT_S = 20.0
FETCH_TIMEOUT_S = 600.0
LOCAL_TIMEOUT_S = 120.0
SETTINGS = (
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
    "credential.helper=",
    "core.autocrlf=false",
    "core.hooksPath=/dev/null",
    "advice.detachedHead=false",
    "gc.auto=0",
)
# Set by git for its hooks; they would point every call at another repository.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")


def install(url: str, commit: str, part: Path, folder: Path) -> None:
    """Puts exactly ``commit`` of ``url`` into ``folder``; it is built in ``part`` and moved.

    Raises:
        SourceUnavailable: git is missing, or the host does not answer.
        SetupError: the repository does not have the commit, or the checkout is not that commit.
    """
    files.remove_tree(part)
    fetch(url, commit, part)
    verify(commit, part)
    folder.parent.mkdir(parents=True, exist_ok=True)
    files.replace_tree(part, folder)


def fetch(url: str, commit: str, folder: Path) -> None:
    """Makes ``folder`` a checkout of ``commit`` without history."""
    _ask(url)
    _git("init", "--quiet", "--template=", str(folder), timeout_s=LOCAL_TIMEOUT_S)
    try:
        _git("-C", str(folder), "fetch", "--quiet", "--depth", "1", url, commit, timeout_s=FETCH_TIMEOUT_S)
    except SetupError as exc:
        if "not our ref" in str(exc):
            raise SetupError(f"{url} does not have commit {commit}") from exc
        raise SourceUnavailable(str(exc)) from exc
    _git("-C", str(folder), "checkout", "--quiet", "--detach", commit, timeout_s=LOCAL_TIMEOUT_S)


def verify(commit: str, folder: Path) -> None:
    """Raises SetupError unless ``folder`` is a clean checkout of ``commit``."""
    found = fault(commit, folder)
    if found is not None:
        raise SetupError(f"{folder.name} {found}")


def fault(commit: str, folder: Path) -> str | None:
    """Returns how ``folder`` differs from ``commit``, or None; files that git does not track are ignored."""
    if not (folder / ".git").exists():
        return "is not a git checkout" if folder.exists() else "is missing"
    try:
        head = _git("-C", str(folder), "rev-parse", "HEAD", timeout_s=LOCAL_TIMEOUT_S).strip()
        changes = _changes(folder, "--untracked-files=no")
    except SetupError as exc:
        return str(exc)
    if head != commit:
        return f"is at commit {head}, expected {commit}"
    return f"was changed: {changes[0]}" if changes else None


def is_clean(folder: Path) -> bool:
    """Returns whether ``folder`` is a checkout of any commit, without changes and without untracked files."""
    try:
        return (folder / ".git").exists() and not _changes(folder)
    except SetupError:
        return False


def _changes(folder: Path, *options: str) -> list[str]:
    lines = _git("-C", str(folder), "status", "--porcelain", *options, timeout_s=LOCAL_TIMEOUT_S).splitlines()
    return [line.strip() for line in lines]


def _ask(url: str) -> None:
    if shutil.which("git") is None:
        raise SourceUnavailable("git is not installed")
    try:
        _git("ls-remote", "--quiet", url, "HEAD", timeout_s=ANSWER_TIMEOUT_S)
    except SetupError as exc:
        raise SourceUnavailable(str(exc)) from exc


def _git(*arguments: str, timeout_s: float) -> str:
    settings = [word for setting in SETTINGS for word in ("-c", setting)]
    env = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    env.update(GIT_TERMINAL_PROMPT="0", GIT_ASKPASS="", SSH_ASKPASS="", LC_ALL="C")
    done = command.run(["git", *settings, *arguments], timeout_s=timeout_s, env=env)
    if done.returncode != 0:
        raise SetupError(f"git: {command.last_line(done.stderr)}")
    return done.stdout
