import errno
import os

import pytest

from handler.errors import StorageUnavailable
from handler.server.picture_store import PictureStore

NOW_S = 1_000_000.0


@pytest.fixture
def folder(tmp_path):
    return PictureStore(tmp_path / "pictures", lambda: NOW_S)


def name(number):
    return f"alpha_{number}_abcdef.png"


def put(folder, number, age_s=0.0, size_bytes=100):
    folder.put(name(number), b"x" * size_bytes)
    os.utime(folder.find(name(number)).path, (NOW_S - age_s, NOW_S - age_s))


def kept(folder, count):
    return [number for number in range(count) if folder.find(name(number))]


@pytest.mark.parametrize(
    "wild",
    [
        *("", ".", "..", "../jobs.sqlite3", "/etc/passwd", "%2e%2e", "x" * 5000),
        *("alpha_1_ABCDEF.png", "alpha_1_abcdef.PNG", "alpha_\u0661_abcdef.png"),
        *("alpha_1_abcdef.png/..", "alpha_1_abcdef.png\n", "alpha_1_abcdef.png\0"),
    ],
)
def test_only_names_of_ours_are_looked_for(folder, wild):
    """Only names made by the worker are found, whatever else is in the folder."""
    folder.put("alpha_1_abcdef.png", b"x")
    assert folder.find(wild) is None
    assert folder.read(wild) is None


def test_pictures_go_when_their_time_is_over(folder):
    """The sweep deletes pictures by age."""
    for number, age_s in enumerate((5, 50, 500)):
        put(folder, number, age_s)
    folder.expire(100, 10_000)
    assert kept(folder, 3) == [0, 1]


def test_the_oldest_pictures_make_room(folder):
    """The sweep deletes the oldest pictures if the total size is over the limit."""
    for number in range(4):
        put(folder, number, age_s=number)
    folder.expire(1000, 250)
    assert kept(folder, 4) == [0, 1]


def test_what_is_not_ours_stays(folder, tmp_path):
    """The sweep removes pictures and the partial files of a killed program, and nothing else."""
    other, left = tmp_path / "pictures" / "holiday.png", tmp_path / "pictures" / "tmp123.part"
    for path in (other, left):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    folder.expire(1, 1)
    assert (other.exists(), left.exists()) == (True, False)


def test_a_full_disk_leaves_nothing_half_written(folder, tmp_path, monkeypatch):
    """The error has the reason, and no part of the picture is left."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageUnavailable, match="No space left"):
        folder.put(name(1), b"x" * 100)
    assert list((tmp_path / "pictures").iterdir()) == []


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    """If a file is in the folder's place, the error comes at the start and not at the first picture."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="cannot be created"):
        PictureStore(tmp_path / "file" / "pictures")
