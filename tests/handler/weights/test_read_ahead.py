"""What was read ahead is in the page cache, and small machines are spared."""

import ctypes
import mmap
import os

import pytest

from handler.weights import read_ahead

SIZE_BYTES = 8 << 20
PAGES = SIZE_BYTES // mmap.PAGESIZE


def resident_share(path):
    """Returns which share of the file's pages is in memory (man 2 mincore)."""
    pages = (ctypes.c_ubyte * PAGES)()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE_BYTES) as mapped:
        view = ctypes.c_char.from_buffer(mapped)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(SIZE_BYTES), pages) == 0
        del view
    return sum(page & 1 for page in pages) / PAGES


@pytest.fixture
def cold(tmp_path):
    """Two files that are only on the disk; skips the test on a filesystem that keeps them in memory."""
    paths = [tmp_path / name for name in ("checkpoint", "patch")]
    for path in paths:
        path.write_bytes(os.urandom(SIZE_BYTES))
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if resident_share(path) > 0.5:
            pytest.skip("this filesystem keeps files in memory")
    return paths


def test_files_are_read_into_the_page_cache(cold):
    """All pages of both."""
    thread = read_ahead.begin(cold, memory_bytes=4 * SIZE_BYTES)
    thread.join(30)
    assert [resident_share(path) for path in cold] == [1, 1]


def test_a_file_that_vanishes_does_not_stop_the_others(cold):
    """The fitness checks report it."""
    read_ahead._read([cold[0].with_name("gone"), *cold])
    assert [resident_share(path) for path in cold] == [1, 1]


def test_a_machine_with_little_memory_reads_nothing_ahead(cold):
    """The pages would take the place of ComfyUI's copy of the weights."""
    assert read_ahead.begin(cold, memory_bytes=4 * SIZE_BYTES - 1) is None
    assert all(resident_share(path) < 0.5 for path in cold)
