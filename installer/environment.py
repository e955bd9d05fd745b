"""A Python environment with exactly the packages of its lock file, verified file by file."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from installer import command, files
from installer.errors import SetupError

INSTALL_TIMEOUT_S = 3600.0
STAMP = ".lock-sha256"
DEV_STAMP = ".dev-lock-sha256"


@dataclass(frozen=True)
class Stamp:
    """Written after a complete install: the lock file's SHA-256 and the packages' metadata folders."""

    lock_sha256: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """An environment, its lock file, and the lock file of the development tools."""

    folder: Path
    lock: Path
    dev_lock: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"


def ensure(uv: Path, environment: Environment, dev: bool, say: Callable[[str], None]) -> str:
    """Installs a damaged or outdated environment again from scratch; returns the result in words."""
    fault = find_fault(environment, environment.lock, STAMP)
    if fault is not None:
        say(f"{fault}, installing")
        create(uv, environment)
    if dev:
        ensure_dev(uv, environment, say)
    return f"{'ok' if fault is None else 'installed'} ({len(distributions(environment.folder))} packages)"


def create(uv: Path, environment: Environment) -> None:
    """Makes a new environment and installs its lock file."""
    create_empty(uv, environment.folder)
    _install(uv, environment, environment.lock)
    _stamp(environment, environment.lock, STAMP, distributions(environment.folder))


def create_empty(uv: Path, folder: Path) -> None:
    """Replaces ``folder`` by a new environment without packages."""
    _uv(uv, "venv", "--quiet", "--no-project", "--clear", "--relocatable", "--python", "3.11", folder)


def ensure_dev(uv: Path, environment: Environment, say: Callable[[str], None]) -> None:
    """Installs the development tools if they are missing, outdated or damaged."""
    fault = find_fault(environment, environment.dev_lock, DEV_STAMP)
    if fault is None:
        return
    say(f"development tools: {fault}, installing")
    (environment.folder / DEV_STAMP).unlink(missing_ok=True)
    _install(uv, environment, environment.dev_lock)
    base = read_stamp(environment.folder / STAMP)
    known = base.packages if base else ()
    added = [name for name in distributions(environment.folder) if name not in known]
    _stamp(environment, environment.dev_lock, DEV_STAMP, added)


def find_fault(environment: Environment, lock: Path, stamp_name: str) -> str | None:
    """Returns how the environment differs from ``lock``, or None if it does not."""
    if not environment.folder.is_dir():
        return "missing"
    if not environment.python.exists():
        return "has no working bin/python"
    stamp = read_stamp(environment.folder / stamp_name)
    if stamp is None:
        return "not completely installed"
    if stamp.lock_sha256 != files.sha256(lock):
        return f"made from another {lock.name}"
    return find_damage(environment.folder, stamp.packages)


def find_damage(folder: Path, packages: Iterable[str]) -> str | None:
    """Returns the first damage in words, or None."""
    return next((f"damaged: {words}" for _, words in damages(folder, packages)), None)


def damages(folder: Path, packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields each package whose files differ from its RECORD, with the first such file in words.

    It compares only existence and size, so it takes milliseconds. Bytecode does not count.
    """
    site = site_packages(folder)
    for package in packages:
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


def read_stamp(path: Path) -> Stamp | None:
    """Returns the stamp in the file, or None if there is none."""
    try:
        lock_sha256, *packages = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    return Stamp(lock_sha256, tuple(packages))


def _stamp(environment: Environment, lock: Path, name: str, packages: list[str]) -> None:
    text = "\n".join([files.sha256(lock), *packages]) + "\n"
    files.write_atomically(environment.folder / name, text)


def _install(uv: Path, environment: Environment, lock: Path) -> None:
    install = ("pip", "install", "--python", environment.python, "--require-hashes", "--no-deps", "--no-build")
    _uv(uv, *install, "-r", lock)
    damaged = [package.split("-")[0] for package, _ in damages(environment.folder, distributions(environment.folder))]
    if not damaged:
        return
    # uv links files from its cache, so an edit inside an environment damages the cached copy as well.
    _uv(uv, "cache", "clean", *damaged)
    _uv(uv, *install, *(f"--reinstall-package={name}" for name in damaged), "-r", lock)
    damage = find_damage(environment.folder, distributions(environment.folder))
    if damage is not None:
        raise SetupError(f"{environment.folder.name}: {damage} right after the install")


def _uv(uv: Path, *arguments: str | Path) -> None:
    done = command.run([uv, *arguments], timeout_s=INSTALL_TIMEOUT_S, visible=True)
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
