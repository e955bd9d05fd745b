"""The job store and its pictures under any order of calls, crashes included."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from handler.errors import InvalidInput, JobCancelled, JobTimeout, NodeFailed
from handler.job.delivery import Finished
from handler.job.picture import Outcome, PictureFacts
from handler.server import kept_pictures
from handler.server.cleanup import delete_unnamed
from handler.server.errors import Conflict, NotFound, QueueFull
from handler.server.job_record import JobRequest, Status
from handler.server.job_store import CANCELLED, RETRYABLE, JobStore
from handler.server.picture_store import PictureStore
from handler.server.results import Results
from handler.server.running_job import RunningJob

KEEPS_S = [20.0, 100.0]
PICTURES_KEEP_S = 1000.0
PLENTY = 1_000_000
QUEUE_LIMIT = 4
DATABASE = "jobs.sqlite3"
ENDS = ["", "complete", "cancel and complete", "fail", "time out"]


class Crash(Exception):
    """The program dies here."""


class JobStoreStates(RuleBasedStateMachine):
    """Calls the store as the dispatcher does, one job at a time, and knows nothing but what it was answered."""

    ids = Bundle("ids")

    def __init__(self):
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.now_s = 1_000_000.0
        self.count = 0
        self.pictures_drawn = 0
        self.known = {}  # what each id was last, by id; expired ones are removed
        self.webhooks = set()
        self.ends = {}
        self.retries = {}
        self.due = set()
        self.keeps_s = {}
        self.expired_pictures = {}  # when each was drawn, by name
        self.open()

    def open(self):
        self.running = None
        self.pictures = PictureStore(self.folder / "pictures", lambda: self.now_s)
        self.store = JobStore(self.folder / DATABASE, QUEUE_LIMIT, lambda: self.now_s)
        delete_unnamed(self.store, self.pictures)
        self.results = Results(self.store, self.pictures, asyncio.Event())

    def new_id(self):
        self.count += 1
        return f"job-{self.count}"

    def accept(self, job_id, keep_s, has_webhook):
        self.keeps_s[job_id] = keep_s
        self.known[job_id] = None
        self.ends[job_id] = self.retries[job_id] = 0
        if has_webhook:
            self.webhooks.add(job_id)

    @rule(
        target=ids,
        keep_s=st.sampled_from(KEEPS_S),
        has_webhook=st.booleans(),
        ttl_s=st.sampled_from([10.0, 10_000.0]),
    )
    def add(self, keep_s, has_webhook, ttl_s):
        job_id = self.new_id()
        request = JobRequest({}, webhook="http://127.0.0.1/" if has_webhook else None, ttl_s=ttl_s)
        try:
            self.store.add(job_id, request, keep_s)
        except QueueFull:
            assert self.store.queued() >= QUEUE_LIMIT  # one more if a stop has put a job back
            self.unknown(job_id)
        else:
            self.accept(job_id, keep_s, has_webhook)
        return job_id

    @rule(target=ids, keep_s=st.sampled_from(KEEPS_S), has_webhook=st.booleans())
    def add_failed(self, keep_s, has_webhook):
        job_id = self.new_id()
        request = JobRequest({}, webhook="http://127.0.0.1/" if has_webhook else None)
        self.store.add_failed(job_id, request, keep_s, InvalidInput(["prompt is required"]))
        self.accept(job_id, keep_s, has_webhook)
        return job_id

    def take(self):
        record = self.store.take()
        if record is None:
            assert all(one is None or one.status.is_final or one.ends_s <= self.now_s for one in self.known.values())
        else:
            self.running = RunningJob(record, None, 1000.0, self.now_s)

    @rule(end=st.sampled_from(ENDS))
    def run(self, end):
        """Runs a job to its end, or leaves it running."""
        self.take_any()
        match end:
            case "complete":
                self.complete()
            case "cancel and complete":
                self.cancel(self.running.id)
                self.complete()
            case "fail" | "time out":
                error = NodeFailed("x") if end == "fail" else JobTimeout("x")
                asyncio.run(self.results.fail(self.running.id, error, lambda: None))
                self.running = None

    @rule()
    def keep(self):
        """A job of several pictures keeps the next one, unless it is cancelled."""
        self.take_any()
        picture = PictureFacts(self.new_name(), {"seed": 7}, {})
        keeper = self.results.keeper(self.running.id)
        keeper.keep(len(keeper.kept().pictures) + 1, Finished(picture, b"x"), {"seed": 7})
        is_kept = self.pictures.find(picture.filename) is not None
        assert is_kept is not self.running.is_cancelled

    @rule(is_committed=st.booleans())
    def die_at_the_end_of_a_job(self, is_committed):
        """Just before its result is on disk, or just after; its picture is stored."""
        self.take_any()
        if self.running.is_cancelled:
            return
        complete = self.store.complete

        def complete_and_die(*arguments):
            if is_committed:
                complete(*arguments)
            raise Crash

        self.store.complete = complete_and_die
        with contextlib.suppress(Crash):
            asyncio.run(self.results.complete(self.running, *self.drawn()))
        self.crash()

    def take_any(self):
        if self.running is None:
            self.take()
        if self.running is None:
            self.expire()  # jobs that waited too long still fill the queue
            self.add(keep_s=KEEPS_S[0], has_webhook=True, ttl_s=10_000.0)
            self.take()

    def complete(self):
        """As the dispatcher does; a cancelled job has no result."""
        job_id = self.running.id
        try:
            asyncio.run(self.results.complete(self.running, *self.drawn()))
        except JobCancelled as exc:
            asyncio.run(self.results.fail(job_id, exc, lambda: None))
        else:
            assert self.store.get(job_id).status is Status.COMPLETED
        self.running = None

    @rule(job_id=ids)
    def cancel(self, job_id):
        """An answer that says CANCELLED is true from then on."""
        if self.running is not None and self.running.id == job_id:
            self.running.cancel()
            self.store.fail(job_id, CANCELLED)
            assert self.store.get(job_id).status is Status.CANCELLED
        elif self.store.cancel_queued(job_id):
            assert self.store.get(job_id).status is Status.CANCELLED

    @rule()
    def purge(self):
        for job_id in self.store.purge():
            assert self.store.get(job_id).status is Status.CANCELLED

    @rule(job_id=ids)
    def retry(self, job_id):
        before = self.known.get(job_id)
        try:
            self.store.retry(job_id)
        except NotFound:
            assert before is None or self.has_expired(job_id)
        except Conflict:
            assert before is None or before.status not in RETRYABLE
        except QueueFull:
            assert self.store.queued() >= QUEUE_LIMIT  # one more if a stop has put a job back
        else:
            assert before.status in RETRYABLE
            self.known[job_id] = None
            self.retries[job_id] += 1
            self.due.discard(job_id)

    @precondition(lambda self: self.failed())
    @rule()
    def retry_a_failed_job(self):
        self.retry(self.failed()[-1])

    @precondition(lambda self: self.ended())
    @rule()
    def end_again(self):
        """A second end of a job, whatever it is, changes nothing."""
        job_id = self.ended()[-1]
        assert not self.store.complete(job_id, Outcome((PictureFacts("x", {}, {}),)))
        self.store.fail(job_id, NodeFailed("x"))
        self.store.put_back(job_id)

    @rule(seconds=st.sampled_from([1.0, 15.0, 200.0]))
    def pass_time(self, seconds):
        self.now_s += seconds

    @rule()
    def expire(self):
        self.pictures.expire(PICTURES_KEEP_S, PLENTY)
        kept_pictures.delete_unneeded(self.store.database, self.pictures)
        unfinished = {job_id for job_id, record in self.known.items() if record is None or not record.status.is_final}
        with self.store.database.transaction() as db:
            assert {row["job_id"] for row in db.execute("SELECT job_id FROM kept_pictures")} <= unfinished
        for job_id in self.store.expire(PLENTY):
            assert self.store.get(job_id).status is Status.TIMED_OUT

    @rule(is_noted=st.booleans())
    def post_webhooks(self, is_noted):
        """A program that dies before it has noted that the webhook was posted posts it again."""
        for record in self.store.due_webhooks():
            if is_noted:
                self.store.webhook_done(record)
                self.due.discard(record.id)

    @rule()
    def stop(self):
        """A clean stop puts the running job back, unless a caller has cancelled it, and the next start finds it."""
        if self.running is not None and not self.running.is_cancelled:
            asyncio.run(self.results.put_back(self.running.id))
        self.store.close()
        self.open()

    @rule()
    def crash(self):
        self.store.close()
        self.open()

    @invariant()
    def every_end_stays(self):
        """An end is never taken back, and expires only at its time."""
        for job_id, before in list(self.known.items()):
            try:
                record = self.store.get(job_id)
            except NotFound:
                assert self.has_expired(job_id)
                self.forget(job_id)
                continue
            if before is not None and before.status.is_final:
                assert record == before
            elif record.status.is_final:
                self.ends[job_id] += 1
                if job_id in self.webhooks:
                    self.due.add(job_id)
            self.known[job_id] = record
            assert self.ends[job_id] == self.retries[job_id] + record.status.is_final

    @invariant()
    def only_the_running_job_is_in_progress(self):
        """All others wait, or have ended."""
        running = {job_id for job_id, record in self.known.items() if record.status is Status.IN_PROGRESS}
        own = set() if self.running is None or self.running.is_cancelled else {self.running.id}
        assert running == own

    @invariant()
    def pictures_and_results_belong_together(self):
        """No result without its pictures.

        No picture without a result, unless the job has not ended, or only the result has expired.
        """
        named = {name for record in self.known.values() for name in names_of(record)}
        stored = {path.name for path in (self.folder / "pictures").iterdir()}
        assert named <= stored
        assert stored - named <= set(self.expired_pictures) | kept_pictures.filenames(self.store.database)
        for name, drawn_s in self.expired_pictures.items():
            assert name in stored or drawn_s + PICTURES_KEEP_S < self.now_s

    @invariant()
    def webhooks_are_due_once(self):
        """From the end of their job until they are posted, or its result has expired."""
        assert {record.id for record in self.store.due_webhooks() if record.id in self.known} == self.due

    def teardown(self):
        """Every accepted job ends."""
        while self.running is not None or self.store.queued():
            self.store.expire(PLENTY)
            if self.running is None:
                self.take()
            if self.running is not None:
                self.complete()
        self.every_end_stays()
        assert all(record.status.is_final for record in self.known.values())
        self.store.close()
        self.stack.close()

    def drawn(self):
        """Returns the kept pictures and two new ones."""
        self.now_s += 0.5
        kept = self.results.keeper(self.running.id).kept().pictures.values()
        new = [PictureFacts(self.new_name(), {"seed": 7}, {}) for _ in range(2)]
        facts = (*(finished.facts for finished in kept), *new)
        return [b"x"] * len(facts), Outcome(facts)

    def new_name(self):
        self.pictures_drawn += 1
        return f"alpha_1_{self.pictures_drawn:06x}.png"

    def has_expired(self, job_id):
        return self.known[job_id].finished_s + self.keeps_s[job_id] <= self.now_s

    def ended(self):
        return [job_id for job_id, record in self.known.items() if record.status.is_final]

    def failed(self):
        return [job_id for job_id in self.ended() if self.known[job_id].status in RETRYABLE]

    def unknown(self, job_id):
        with pytest.raises(NotFound):
            self.store.get(job_id)

    def forget(self, job_id):
        record = self.known.pop(job_id)
        self.due.discard(job_id)
        self.expired_pictures |= dict.fromkeys(names_of(record), record.finished_s)


def names_of(record):
    return [picture.filename for picture in record.outcome.pictures] if record.outcome else []


@pytest.mark.parametrize("examples", [25, pytest.param(1_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_the_store_keeps_every_end(examples):
    """Every accepted job ends once, no end is taken back, and pictures and results belong together."""
    run_state_machine_as_test(JobStoreStates, settings=settings(max_examples=examples, stateful_step_count=30))
