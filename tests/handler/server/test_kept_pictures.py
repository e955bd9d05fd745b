"""What is kept of a job until it ends, and for which reasons not."""

import pytest

from handler.errors import StorageUnavailable
from handler.job.delivery import Finished, Kept
from handler.job.picture import Outcome, PictureFacts
from handler.server import kept_pictures
from handler.server.job_record import JobRequest
from handler.server.job_store import CANCELLED, JobStore
from handler.server.kept_pictures import KeptPictures
from handler.server.picture_store import PictureStore

FIRST = {"seed": 7}
NAME = "alpha_1_00000a.png"
HERE = Finished(PictureFacts(NAME, {"seed": 8}, {"steps": 20}), b"x")
IN_BUCKET = Finished(PictureFacts("alpha_1_00000b.png", {"seed": 7}, {}, "https://s3.example/b"), None)
NOTHING = Kept(None, {})


@pytest.fixture
def opened(tmp_path):
    """Opens the files again, like the next start; returns the job store, the pictures and what the job "a" keeps."""
    stores = []

    def opened():
        for store in stores:
            store.close()
        stores.append(JobStore(tmp_path / "jobs.sqlite3", 10))
        pictures = PictureStore(tmp_path / "pictures")
        return stores[-1], pictures, KeptPictures(stores[-1].database, pictures, "a")

    yield opened
    stores[-1].close()


@pytest.fixture
def running(opened):
    """The same three, while "a" runs."""
    store, pictures, kept = opened()
    store.add("a", JobRequest({}), 100.0)
    store.take()
    return store, pictures, kept


def test_the_next_start_finds_them(running, opened):
    """With the random values of the first picture; those in a bucket by their URL."""
    _, _, kept = running
    kept.keep(1, IN_BUCKET, FIRST)
    kept.keep(2, HERE, FIRST)
    assert opened()[2].kept() == Kept(FIRST, {1: IN_BUCKET, 2: HERE})


def test_a_picture_that_has_expired_is_drawn_again(running):
    """Its seed stays."""
    _, pictures, kept = running
    kept.keep(1, HERE, FIRST)
    pictures.delete(NAME)
    assert kept.kept() == Kept(FIRST, {})


def test_a_job_that_gets_on_is_not_given_up(running, opened):
    """Each picture is a new beginning: only without one, the second death of the worker ends the job."""
    store, _, kept = running
    for image in range(1, 5):
        kept.keep(image, HERE, FIRST)
        store, _, kept = opened()
        assert store.take().id == "a"
    store, _, _ = opened()
    assert store.get("a").error == "internal: the worker died 2 times while it ran this job"


def test_a_cancelled_job_keeps_nothing_more(running):
    """A picture that is finished after that leaves no file."""
    store, pictures, kept = running
    store.fail("a", CANCELLED)
    kept.keep(1, HERE, FIRST)
    assert (kept.kept(), pictures.find(NAME)) == (NOTHING, None)


def test_pictures_of_a_result_stay(running):
    """Only those of jobs without a result are deleted."""
    store, pictures, kept = running
    kept.keep(1, HERE, FIRST)
    store.complete("a", Outcome((HERE.facts,)))
    kept_pictures.delete_unneeded(store.database, pictures)
    assert (kept.kept(), pictures.read(NAME)) == (NOTHING, b"x")


@pytest.mark.parametrize("fails", [(PictureStore, "put"), (KeptPictures, "_note")])
def test_a_full_disk_stops_no_job(running, monkeypatch, fails):
    """The picture is then only in memory, as that of a job with one picture, and leaves no file."""
    _, pictures, kept = running

    def full(*_):
        raise StorageUnavailable("disk full")

    monkeypatch.setattr(*fails, full)
    kept.keep(1, HERE, FIRST)
    assert (kept.kept(), pictures.find(NAME)) == (NOTHING, None)
