"""Cleanup while one of its two places cannot be used."""

import asyncio
import contextlib
import os

import pytest

from handler.errors import StorageUnavailable
from handler.server.cleanup import clean_up
from handler.server.job_record import JobRequest, Status
from handler.server.job_store import JobStore
from handler.server.picture_store import PictureStore
from handler.settings import Settings

FULL = "the job file cannot be used: database or disk is full"


@pytest.fixture
def swept(tmp_path):
    """Runs one round of the cleanup over a job that waited too long and a picture of 1970; yields both stores."""
    store, pictures = JobStore(tmp_path / "jobs.sqlite3", 10), PictureStore(tmp_path / "pictures")
    store.add("waits", JobRequest({}, ttl_s=0.0), 100.0)
    pictures.put("alpha_1_abcdef.png", b"x")
    os.utime(pictures.find("alpha_1_abcdef.png").path, (0, 0))

    def sweep():
        async def one_round():
            with contextlib.suppress(TimeoutError):
                settings = Settings(profile="tiny", data_dir=tmp_path)
                await asyncio.wait_for(clean_up(store, pictures, settings, lambda _: None), 0.5)

        asyncio.run(one_round())
        return store, pictures

    yield sweep
    store.close()


def test_a_full_disk_is_freed(swept, monkeypatch):
    """Expired pictures are deleted although the job store, which has to write, fails."""

    def full(*_):
        raise StorageUnavailable(FULL)

    monkeypatch.setattr(JobStore, "expire", full)
    _, pictures = swept()
    assert pictures.find("alpha_1_abcdef.png") is None


def test_jobs_time_out_although_pictures_cannot_be_deleted(swept, monkeypatch):
    """The other way round: a folder that cannot be read does not keep jobs in the queue forever."""

    def unreadable(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(PictureStore, "expire", unreadable)
    store, _ = swept()
    assert store.get("waits").status is Status.TIMED_OUT
