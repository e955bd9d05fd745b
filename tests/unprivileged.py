"""Fixture: a user who is not root, and a folder whose parents that user may enter."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def as_another_user():
    """A folder, and a function that hands it to a user who is not root and makes this process that user."""
    folder = Path(tempfile.mkdtemp(prefix="unprivileged-"))
    is_root = os.geteuid() == 0

    def become():
        if is_root:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
            os.seteuid(NOBODY)

    yield folder, become
    if is_root:
        os.seteuid(0)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700)
    shutil.rmtree(folder)
