"""RunPod's side of the worker's protocol, which fails as planned and keeps its own record."""

import asyncio
import json
import threading
import urllib.parse
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from aiohttp import web
from control_plane import ControlPlane

from tools.soak.faults import until
from tools.soak.ledger import COMPLETED, Answer, Ledger

JOB_S = 300.0  # after that a job counts as lost
Failure = Literal["500", "cut", "hang"]


class RunPodSide(ControlPlane):
    """Gives jobs to the worker, and notes in the ledger what it reports and what is acknowledged.

    Attributes:
        polls: how often the worker asked for a job.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.polls = 0
        self._ledger = ledger
        self._inputs: dict[str, Mapping[str, Any]] = {}
        self._over: dict[str, threading.Event] = {}
        self._completed: set[str] = set()
        self._stopped: set[str] = set()
        self._take_failures: deque[Failure] = deque()
        self._report_failures: deque[Failure] = deque()

    def begin(self, job_id: str, request: Mapping[str, Any], may_end: frozenset[str] = COMPLETED) -> None:
        """Queues a job."""
        self._inputs[job_id] = request
        self._over[job_id] = threading.Event()
        self._ledger.accepted(job_id, may_end)
        self.submit(job_id, request)

    def wait(self, job_id: str) -> bool:
        """Returns whether the job has completed, when it is over or JOB_S have passed."""
        self._over[job_id].wait(JOB_S)
        return job_id in self._completed

    def draw(self, job_id: str, request: Mapping[str, Any]) -> bool:
        """Queues a job, and returns at its end whether it has completed."""
        self.begin(job_id, request)
        return self.wait(job_id)

    def stop_job(self, job_id: str) -> None:
        """Cancels a running job, as a caller's /cancel does; what is reported about it later counts no more."""
        if not self._over[job_id].is_set():
            self._stopped.add(job_id)
            self._ledger.answered(job_id, Answer.of("CANCELLED", ""))
            self.stop(job_id)
            self._over[job_id].set()

    def give_again(self) -> None:
        """Queues the jobs again that the worker has taken and not reported."""
        queued = {job["id"] for job in list(self._jobs.queue)}
        for job_id in dict.fromkeys(self.taken):
            if not self._over[job_id].is_set() and job_id not in queued:
                self.submit(job_id, self._inputs[job_id])

    def fail_take(self, *failures: Failure) -> None:
        """Makes the next polls for a job fail, and returns when they have."""
        self._take_failures.extend(failures)
        until(lambda: not self._take_failures, JOB_S)

    def fail_reports(self, *failures: Failure) -> None:
        """Makes the next reports fail."""
        self._report_failures.extend(failures)

    async def _take(self, request: web.Request) -> web.StreamResponse:
        self.polls += 1
        if self._take_failures:
            return await self._fail(request, self._take_failures.popleft())
        return await super()._take(request)

    async def _done(self, request: web.Request) -> web.StreamResponse:
        job = json.loads(await request.read())
        if job.get("status") == "IN_PROGRESS":  # meets the failures, too, but leaves them for a result
            return await self._fail(request, self._report_failures[0]) if self._report_failures else web.Response()
        if self._report_failures:
            return await self._fail(request, self._report_failures.popleft())
        job_id = urllib.parse.unquote(request.match_info["id"])
        if job_id not in self._stopped:
            error = job.get("error") or ""
            output = None if error else job["output"]
            if output is not None:
                self._completed.add(job_id)
            self._ledger.posted(job_id, Answer.of("FAILED" if error else "COMPLETED", output or error), output, error)
            self._over[job_id].set()
        return web.Response()

    @staticmethod
    async def _fail(request: web.Request, failure: Failure) -> web.StreamResponse:
        connection = request.transport
        assert connection is not None
        if failure == "hang":
            while not connection.is_closing():
                await asyncio.sleep(0.1)
        if failure != "500":
            connection.abort()
        return web.Response(status=500)
