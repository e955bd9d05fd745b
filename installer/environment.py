"""A Python environment with exactly the packages of its lock files, verified file by file."""

import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from installer import command, files
from installer.errors import SetupError

INSTALL_TIMEOUT_S = 3600.0
STAMP = ".locks-sha256"


@dataclass(frozen=True)
class Environment:
    """An environment and its lock files."""

    folder: Path
    locks: tuple[Path, ...]

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    def state(self) -> str:
        """Returns a hexadecimal SHA-256 of the lock files and of the names of the installed packages."""
        names = "\n".join(distributions(self.folder)).encode()
        return hashlib.sha256(b"".join(lock.read_bytes() for lock in self.locks) + names).hexdigest()


def ensure(uv: Path, environment: Environment, say: Callable[[str], None], anew: bool = False) -> str:
    """Installs what the lock files list and removes everything else; returns the result in words.

    A damaged environment is made again from scratch, because uv regards a package with missing files as installed.

    Raises:
        SetupError: uv failed, or files are missing right after the install.
    """
    folder, stamp = environment.folder, environment.folder / STAMP
    fault = "repair requested" if anew else find_fault(environment)
    is_current = fault is None and stamp.exists() and stamp.read_text(encoding="utf-8") == environment.state()
    if not is_current:
        say(f"{fault or 'differs from its lock files'}, installing")
        if fault is not None:
            create_empty(uv, folder)
        _sync(uv, environment)
        if damaged := dict(damages(folder)):
            # uv links files from its cache, so an edit inside an environment damages the cached copy as well.
            _uv(uv, "cache", "clean", *(package.split("-")[0] for package in damaged))
            create_empty(uv, folder)
            _sync(uv, environment)
            for words in dict(damages(folder)).values():
                raise SetupError(f"{folder.name}: {words} right after the install")
        files.write_atomically(stamp, environment.state())
    return f"{'ok' if is_current else 'installed'} ({len(distributions(folder))} packages)"


def create_empty(uv: Path, folder: Path) -> None:
    """Replaces `folder` by a new environment without packages."""
    _uv(uv, "venv", "--no-project", "--clear", "--relocatable", "--python", "3.11", folder)


def find_fault(environment: Environment) -> str | None:
    """Returns what is damaged or missing, in words; None if the environment is complete."""
    if not environment.folder.is_dir():
        return "missing"
    if not environment.python.exists():
        return "has no working bin/python"
    return next((f"damaged: {words}" for _, words in damages(environment.folder)), None)


def damages(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields each package whose files differ from its RECORD, with the first such file in words.

    Only existence and size are compared, so that it takes milliseconds; bytecode does not count.
    """
    site = site_packages(folder)
    for package in distributions(folder):
        words = _damage(site, package)
        if words is not None:
            yield package, words


def distributions(folder: Path) -> list[str]:
    """Returns the names of the installed packages' metadata folders."""
    return sorted(path.name for path in site_packages(folder).glob("*.dist-info"))


def site_packages(folder: Path) -> Path:
    """Returns the folder that the environment imports from."""
    found = sorted(folder.glob("lib/python3*/site-packages"))
    return found[0] if found else folder / "lib/python3/site-packages"


def _sync(uv: Path, environment: Environment) -> None:
    python = ("--python", environment.python)
    _uv(uv, "pip", "sync", *python, "--require-hashes", "--no-build", *environment.locks)


def _uv(uv: Path, *arguments: str | Path) -> None:
    done = command.run([uv, "--quiet", *arguments], timeout_s=INSTALL_TIMEOUT_S, visible=True)
    if done.returncode != 0:
        last = Path(arguments[-1]).name
        raise SetupError(f"uv {arguments[0]} … {last} failed with exit status {done.returncode}, its reason is above")


def _damage(site: Path, package: str) -> str | None:
    try:
        with (site / package / "RECORD").open(encoding="utf-8", newline="") as record:
            for path, _, size in csv.reader(record):
                if size and "__pycache__/" not in path and _size(site, path) != int(size):
                    return f"{path} is missing or has another size"
    except (OSError, ValueError):
        return f"{package}/RECORD cannot be read"
    return None


def _size(site: Path, path: str) -> int:
    try:
        return os.stat(f"{site}/{path}").st_size  # noqa: PTH116 -- no Path objects for tens of thousands of files
    except FileNotFoundError:
        return -1
