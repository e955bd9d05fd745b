"""Fixture: a small disk of its own, which a test fills up."""

import contextlib
import subprocess

import pytest


class SmallDisk:
    """A mounted folder of 24 MB.

    Attributes:
        folder: its root.
    """

    def __init__(self, folder):
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, but_bytes=0):
        """Leaves no room, or only this much."""
        with self._filler.open("ab", buffering=0) as filler:
            for size_bytes in (1 << 20, 512):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(bytes(size_bytes))
            filler.truncate(filler.tell() - but_bytes)

    def free(self):
        self._filler.unlink()


@pytest.fixture
def small_disk(tmp_path):
    """A SmallDisk; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)
