"""Starts on a disk that is full; ComfyUI is a child that speaks its protocol."""

import contextlib
import os
import time

import fake_comfyui
import pytest
from server import Server


@contextlib.contextmanager
def serving(tmp_path, **more):
    """Yields a server that has not been started; it is killed at the end of the block."""
    fake_comfyui.install(tmp_path / "comfyui")
    server = Server(**{"data_dir": tmp_path / "data"} | more, COMFYUI_DIR=str(tmp_path / "comfyui"), WARM_UP="off")
    try:
        yield server
    finally:
        server.kill()


def test_a_start_frees_a_full_disk(tmp_path, small_disk):
    """The server was killed, and the disk is full of expired pictures: the next start deletes them."""
    with serving(tmp_path, data_dir=small_disk.folder) as server:
        server.start()
        finished = server.run()
        assert server.result(finished)["status"] == "COMPLETED"
        waiting = [server.run() for _ in range(3)]
        server.kill()
        expired = small_disk.folder / "pictures" / "alpha_1_abcdef.png"
        small_disk.fill()
        (small_disk.folder / "filler").rename(expired)
        os.utime(expired, (0, 0))
        server.start()
        assert [server.result(job_id)["status"] for job_id in (finished, *waiting)] == ["COMPLETED"] * 4


@pytest.mark.soak
def test_a_full_temporary_folder_that_is_freed(tmp_path, small_disk):
    """/ping is 503 and jobs wait; when there is room, the server sees it within a minute, and draws them."""
    small_disk.fill(but_bytes=16_384)  # with no room at all, Python takes another folder
    with serving(tmp_path, TMPDIR=str(small_disk.folder)) as server:
        server.start(503)
        job_id = server.run()
        time.sleep(2)
        assert server.status(job_id)["status"] == "IN_QUEUE"
        small_disk.free()
        assert server.result(job_id)["status"] == "COMPLETED"
        assert server.http.get(f"{server.url}/ping", timeout=10).status_code == 200
