import contextlib
import dataclasses
import sqlite3
from pathlib import Path

import pytest

from handler.errors import InvalidInput, JobCancelled, JobTimeout, NodeFailed, StorageUnavailable
from handler.job.picture import MissingPicture, Outcome, PictureFacts
from handler.server import job_database
from handler.server.errors import Conflict, NotFound, QueueFull
from handler.server.job_record import JobRequest, Status
from handler.server.job_store import JobStore

KEEP_S = 100.0
PLENTY = 1_000_000
RESULT = Outcome(
    (PictureFacts("x", {"seed": 7}, {"steps": 20}),), (MissingPicture({"seed": 8}, "node_failed: x"),), True
)


class Clock:
    now_s = 1_000_000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, clock):
    """Opens the same file again, like the next start of the program."""
    stores = []

    def opened(queue_limit=10):
        for store in stores:
            store.close()
        stores.append(JobStore(tmp_path / "jobs.sqlite3", queue_limit, clock))
        return stores[-1]

    yield opened
    stores[-1].close()


@pytest.fixture
def store(opened):
    return opened()


def add(store, *ids, **request):
    for job_id in ids:
        store.add(job_id, JobRequest({"prompt": job_id}, **request), KEEP_S)


def test_jobs_are_taken_in_order(store):
    """Jobs are taken in the order of their arrival, each once."""
    add(store, "a", "b")
    assert [store.take().id, store.take().id, store.take()] == ["a", "b", None]


def test_a_job_carries_its_request_and_times(store, clock):
    """The stored request is returned unchanged; waiting and running times are in ms."""
    request = JobRequest({"prompt": "りんご \ud83c"}, {"accessId": "x"}, "https://example.com/", 5.0, 50.0)
    store.add("a", request, KEEP_S)
    clock.now_s += 2
    store.take()
    clock.now_s += 3.5
    store.complete("a", RESULT)
    record = store.get("a")
    assert (record.request, record.status, record.outcome) == (request, Status.COMPLETED, RESULT)
    assert (record.delay_ms, record.execution_ms) == (2000, 3500)


def test_a_queue_is_bounded(opened):
    """If the queue is full, a job is rejected; taking a job makes room."""
    store = opened(queue_limit=2)
    add(store, "a", "b")
    with pytest.raises(QueueFull, match=r"queue is full \(2 jobs\)"):
        add(store, "c")
    store.take()
    add(store, "c")


def test_waiting_and_finished_jobs_outlive_the_program(opened):
    """After a restart a queued job is still queued, and a finished one is readable."""
    store = opened()
    add(store, "done", "waits")
    store.take()
    store.complete("done", RESULT)
    store = opened()
    assert store.get("done").outcome == RESULT
    assert store.take().id == "waits"


def test_a_job_under_way_runs_again_once(opened):
    """If the program dies during a job, the job runs once more; if it dies again, the job has failed."""
    add(opened(), "a", "b")
    assert opened().take().id == "a"
    assert opened().take().id == "a"
    store = opened()
    assert store.take().id == "b"
    record = store.get("a")
    assert (record.status, record.error.split(":")[0]) == (Status.FAILED, "internal")


def test_a_job_put_back_does_not_count_as_tried(opened):
    """A clean stop does not count as an attempt, however often it happens."""
    add(opened(), "a")
    for _ in range(4):
        store = opened()
        assert store.take().id == "a"
        store.put_back("a")
    assert opened().get("a").status is Status.IN_QUEUE


def test_what_is_over_stays_as_it_is(store):
    """A job ends once: a cancelled one is not completed afterwards."""
    add(store, "a")
    assert store.cancel_queued("a")
    assert not store.cancel_queued("a")
    store.complete("a", RESULT)
    assert store.get("a").status is Status.CANCELLED


@pytest.mark.parametrize("error", [NodeFailed("y"), JobTimeout("y")])
def test_a_job_that_failed_is_retried(store, error):
    """As at RunPod, a failed or timed-out job can be retried; it keeps its id."""
    add(store, "a")
    store.take()
    store.fail("a", error)
    store.retry("a")
    assert store.take().id == "a"
    assert store.retried() == 1


@pytest.mark.parametrize("error", [None, JobCancelled("y")])
def test_other_jobs_are_not_retried(store, error):
    """A completed or cancelled job does not change, nor does a queued one."""
    add(store, "a")
    with pytest.raises(Conflict, match="this one is IN_QUEUE"):
        store.retry("a")
    store.take()
    store.fail("a", error) if error else store.complete("a", RESULT)
    before = store.get("a")
    with pytest.raises(Conflict):
        store.retry("a")
    assert (store.get("a"), store.retried()) == (before, 0)


def test_a_job_that_failed_when_it_was_submitted(opened):
    """It is never taken, uses no place in the queue, is readable until it expires, and its webhook is due."""
    store = opened(queue_limit=1)
    add(store, "queued")
    store.add_failed("a", JobRequest({}, webhook="http://127.0.0.1/"), KEEP_S, InvalidInput(["prompt is required"]))
    record = store.get("a")
    assert (record.status, record.error) == (Status.FAILED, "invalid_input: prompt is required")
    assert (record.delay_ms, record.execution_ms) == (0, 0)
    assert [store.take().id, store.take()] == ["queued", None]
    assert [record.id for record in store.due_webhooks()] == ["a"]
    store.retry("a")
    assert store.take().id == "a"


def test_purging_cancels_what_waits(store):
    """The running job continues."""
    add(store, "a", "b", "c")
    store.take()
    assert store.purge() == ["b", "c"]
    assert store.counts()[Status.CANCELLED] == 2
    assert store.get("a").status is Status.IN_PROGRESS


def test_a_result_is_kept_for_its_time(store, clock):
    """An expired result is no longer returned, and the next sweep deletes it from the file."""
    add(store, "a")
    store.take()
    store.complete("a", RESULT)
    clock.now_s += KEEP_S - 1
    assert store.get("a").outcome == RESULT
    clock.now_s += 2
    with pytest.raises(NotFound):
        store.get("a")
    with pytest.raises(NotFound):
        store.retry("a")
    store.expire(PLENTY)
    assert sum(store.counts().values()) == 0


def test_a_job_that_waits_too_long_times_out(store, clock):
    """A job whose time to live has expired is never taken, and its error says why."""
    add(store, "a", ttl_s=10.0)
    clock.now_s += 11
    assert store.take() is None
    assert store.expire(PLENTY) == ["a"]
    assert store.get("a").status is Status.TIMED_OUT


def test_results_are_bounded_in_bytes(store):
    """The oldest results are deleted first; queued jobs are never deleted."""
    add(store, *"abcd")
    for job_id in "abc":
        store.take()
        store.complete(job_id, Outcome((PictureFacts("x" * 1000, {}, {}),)))
    store.expire(2500)
    with pytest.raises(NotFound):
        store.get("a")
    assert [store.get(job_id).status.is_final for job_id in "bcd"] == [True, True, False]


def test_webhooks_stay_due_until_they_are_told(opened):
    """A webhook is due when its job is over, even after a restart, and is called once."""
    store = opened()
    add(store, "a", webhook="http://127.0.0.1/")
    add(store, "b")
    assert store.due_webhooks() == []
    store.purge()
    store = opened()
    assert [record.id for record in store.due_webhooks()] == ["a"]
    store.webhook_done(store.get("a"))
    assert store.due_webhooks() == []


def test_a_full_disk_accepts_nothing_and_loses_nothing(store):
    """A job that cannot be written is rejected with a clear error; older jobs are kept, and later ones work."""
    add(store, "a")
    connection = store.close.__self__._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageUnavailable, match="full"):
        add(store, "large", s3_config="x" * 100_000)
    connection.execute("PRAGMA max_page_count = 1000000")
    add(store, "b")
    assert [store.take().id, store.take().id] == ["a", "b"]


def test_a_file_of_something_else_is_rejected(tmp_path):
    """A file of another kind is neither used nor overwritten."""
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(StorageUnavailable, match="not a database"):
        JobStore(path, 10)
    assert path.read_bytes().startswith(b"not a database")


def test_a_file_of_a_newer_version_is_rejected(opened, tmp_path):
    """The message has both versions."""
    opened().close()
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(StorageUnavailable, match="version 7, this program reads up to 3"):
        JobStore(tmp_path / "jobs.sqlite3", 10)


def test_a_file_of_version_0_1_0_is_opened(opened, tmp_path):
    """Results and reasons are as they were, interrupted and queued jobs run; the dump was made with that version."""
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as database:
        database.executescript(Path(__file__).with_name("jobs_0.1.0.sql").read_text())
    store = opened()
    completed = store.get("completed")
    assert (completed.status, completed.outcome.first.random_values) == (Status.COMPLETED, {"seed": 7})
    assert completed.outcome.first.filename == "alpha_1760000003_0a1b2c.png"
    assert completed.outcome.first.info["versions"]["layerdiffuse_alpha"] == "0.1.0"
    assert (store.get("failed").status, store.get("failed").error) == (
        Status.FAILED,
        "node_failed: Sampler: out of memory",
    )
    assert [record.id for record in store.due_webhooks()] == ["failed"]
    assert store.get("cancelled").status is Status.CANCELLED
    assert store.get("died twice").error.startswith("internal: the worker died 2 times")
    assert [store.take().id, store.take().id, store.take()] == ["running", "queued", None]
    request = store.get("queued").request
    assert (request.input, request.webhook) == ({"prompt": "a blue bird"}, "https://hook.example/")
    assert (request.execution_timeout_s, request.s3_config["bucketName"]) == (60.0, "c-d")
    assert opened().get("completed") == completed


def test_a_file_of_version_0_2_0_is_opened(opened, tmp_path):
    """A result was that of one picture; the dump was made with that version."""
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as database:
        database.executescript(Path(__file__).with_name("jobs_0.2.0.sql").read_text())
    store = opened()
    outcome = store.get("completed").outcome
    assert (outcome.missing, outcome.is_list) == ((), False)
    (picture,) = outcome.pictures
    assert (picture.filename, picture.random_values) == ("alpha_1764000003_0a1b2c.png", {"seed": 7})
    assert store.take().id == "queued"


def test_what_is_stored_belongs_to_a_version():
    """A change of the columns or of what is in them needs a new VERSION, and a dump like that of 0.1.0 to read.

    A file has one version, not each row: `JobStore` reads rows of all versions up to its own, and a program that is
    older than the file refuses all of it.
    """
    kinds = (JobRequest, Outcome, PictureFacts, MissingPicture)
    stored = {kind.__name__: [field.name for field in dataclasses.fields(kind)] for kind in kinds}
    assert "first TEXT NOT NULL,\n    facts TEXT NOT NULL" in job_database.KEPT_PICTURES  # facts of a picture
    assert (job_database.VERSION, stored | {"columns": job_database.COLUMNS}) == (
        3,
        {
            "JobRequest": ["input", "s3_config", "webhook", "execution_timeout_s", "ttl_s", "is_sent_as_base64"],
            "Outcome": ["pictures", "missing", "is_list"],
            "PictureFacts": ["filename", "random_values", "info", "url"],
            "MissingPicture": ["random_values", "error"],
            "columns": [
                "number",
                "id",
                "status",
                "request",
                "keep_s",
                "created_s",
                "ends_s",
                "started_s",
                "finished_s",
                "attempts",
                "retries",
                "has_webhook",
                "webhook_due",
                "outcome",
            ],
        },
    )


@pytest.mark.parametrize("version", [0, 1])
def test_a_database_of_another_program_is_not_touched(tmp_path, version):
    """It keeps its tables, and gets none of ours."""
    path = tmp_path / "jobs.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE jobs (name TEXT)")
        database.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable, match="another program"):
        JobStore(path, 10)
    assert path.read_bytes() == before


def test_an_empty_file_is_a_damaged_one(tmp_path):
    """A new file is never empty, so this one had jobs in it."""
    (tmp_path / "jobs.sqlite3").touch()
    with pytest.raises(StorageUnavailable, match="was damaged"):
        JobStore(tmp_path / "jobs.sqlite3", 10)


@pytest.mark.parametrize(
    "request_json",
    ['{"input": {}, "unknown": 1}', '{"input": {}, "ttl_s": "soon"}', "[]", "not JSON", '{"webhook": null}'],
)
def test_a_row_that_cannot_be_read_fails_alone(opened, tmp_path, request_json):
    """The job has failed with `internal`, also after a restart, and the next one runs."""
    store = opened()
    add(store, "poison", "b", webhook="http://127.0.0.1/")
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as database, database:
        database.execute("UPDATE jobs SET request = ? WHERE id = 'poison'", (request_json,))
    store = opened()
    assert store.take().id == "b"
    assert (store.get("poison").status, store.get("poison").error.split(":")[0]) == (Status.FAILED, "internal")
    assert store.due_webhooks() == []
    assert opened().get("poison").status is Status.FAILED


def test_the_file_is_for_its_owner_only(tmp_path, store):
    """Only the owner can read the file, because a job may contain the keys of a bucket."""
    assert (tmp_path / "jobs.sqlite3").stat().st_mode & 0o077 == 0
