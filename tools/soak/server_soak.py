"""The HTTP server under load and faults."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server import Server

from tools.soak import faults, usage
from tools.soak.client import Client
from tools.soak.comfyui_faults import ComfyFaults
from tools.soak.soak import SLOW, Options, Report
from tools.soak.webhook_receiver import WebhookReceiver

CLIENTS = 4
DISK = "64m"
FULL_S = 6.0
DOWN_S = 6.0
LIMIT_MS = 5000
JOB_FILES = {"jobs.sqlite3", "jobs.sqlite3-wal", "jobs.sqlite3-shm", "lock"}
CANCELLED = frozenset({"COMPLETED", "CANCELLED"})
TIMED_OUT = frozenset({"COMPLETED", "TIMED_OUT"})


def soak(options: Options, on_progress: Callable[[int, str], None]) -> Report:
    """Runs the server and returns what was found."""
    with contextlib.ExitStack() as stack:
        data = options.folder / "data"
        data.mkdir()
        is_small = stack.enter_context(faults.small_disk(data, DISK))
        run = stack.enter_context(ServerSoak(options, on_progress, data, is_disk_small=is_small))
        run.run(CLIENTS)
        run.read_again()
        return run.report


class ServerSoak(ComfyFaults):
    """A run of the server; use it as a context manager."""

    def __init__(
        self, options: Options, on_progress: Callable[[int, str], None], data: Path, *, is_disk_small: bool
    ) -> None:
        super().__init__(options, on_progress)
        self._data = data
        self._temporary = options.folder / "tmp"
        self._temporary.mkdir()
        self._server = Server(
            data,
            TMPDIR=str(self._temporary),
            RESULTS_KEEP_S="86400",
            RESULTS_LIMIT_BYTES="500000000",
        )
        self._server.output = self.log
        self._webhooks = WebhookReceiver(self.ledger)
        self._client = Client(self._server.url, self.ledger)
        self.kinds = {
            "ComfyUI killed, idle": self.kill_idle,
            "ComfyUI killed, starting": self.kill_starting,
            "ComfyUI killed, sampling": self._kill_sampling,
            "ComfyUI killed, decoding": self._kill_decoding,
            "ComfyUI stopped, idle": self.stop_idle,
            "ComfyUI paused, sampling": self._pause_sampling,
            "ComfyUI stopped, sampling": self._stop_sampling,
            "connection to ComfyUI cut": self._cut,
            "job cancelled": self._cancel,
            "client gone": self._hang_up,
            "server killed": self._kill_server,
            "server stopped": self._stop_server,
            "webhook receiver down": self._webhooks_down,
        }
        if is_disk_small:
            self.kinds["disk full"] = self._fill_disk
        else:
            self.report.skipped["disk full"] = "a tmpfs cannot be mounted here (that needs root)"

    def __enter__(self) -> "ServerSoak":
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._webhooks)
        self._start()
        self._stack.callback(self._server.kill)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pid(self) -> int | None:
        return self._server.process.pid if self._server.process.poll() is None else None

    def draw(self, number: int) -> None:
        """A third of the jobs is waited for by /runsync or /txt2img; of the others, half have a webhook."""
        client = Client(self._server.url, self.ledger)
        request = self.request(number)
        match number % 6:
            case 0:
                client.runsync(request)
            case 1:
                client.txt2img(request)
            case 2 | 3:
                client.wait(client.run(request, webhook=self._webhooks.url()))
            case _:
                client.wait(client.run(request))

    def leftover_bytes(self) -> int:
        return usage.leftover_bytes(self._temporary, self._data, known=JOB_FILES | self._pictures())

    def read_again(self) -> None:
        """Reads each result of /run again, which must be the same as before, and looks for pictures of no one."""
        for job in self.ledger.jobs:
            if job.is_kept and job.answers:
                self._client.wait(job.key)
        self.ledger.compare_pictures(self._pictures())

    def _pictures(self) -> set[str]:
        return {path.name for path in (self._data / "pictures").glob("alpha_*")}

    def _start(self) -> None:
        began_s = time.monotonic()
        self._server.start()
        self.report.cold_starts_s.append(time.monotonic() - began_s)

    def begin_slow_job(self, may_end: frozenset[str], at_step: int = 1, **envelope: Any) -> str:
        """`at_step`: the sampler's step that it has reached then; `envelope`: more fields of its request."""
        job_id = self._client.run(self.request(self.number_for_fault(), SLOW), may_end, **envelope)
        self._client.wait(job_id, lambda job: (job.get("output") or {}).get("step", 0) >= at_step)
        return job_id

    def has_completed(self, job_id: str) -> bool:
        return self._client.wait(job_id)["status"] == "COMPLETED"

    def draw_next(self) -> None:
        if self.has_completed(self._client.run(self.request(self.number_for_fault()))):
            self.recovered()

    def _kill_sampling(self) -> None:
        with self.slow_job(at_step=self.chance.randrange(1, 12)):
            self.hit_comfyui(signal.SIGKILL)

    def _kill_decoding(self) -> None:
        with self.slow_job(at_step=SLOW["num_inference_steps"]):
            self.hit_comfyui(signal.SIGKILL)

    def _pause_sampling(self) -> None:
        with self.slow_job():
            self.pause()

    def _stop_sampling(self) -> None:
        """The job has a limit of its own, and ends with it."""
        with self.slow_job(TIMED_OUT, policy={"executionTimeout": LIMIT_MS}):
            self.hit_comfyui(signal.SIGSTOP)

    def _cut(self) -> None:
        with self.slow_job(at_step=self.chance.randrange(1, 12)):
            faults.cut_connections(self._server.process.pid, self.comfyui())

    def _cancel(self) -> None:
        job_id = self._client.run(self.request(self.number_for_fault(), SLOW), CANCELLED)
        time.sleep(self.chance.uniform(0.0, 1.5))
        self._client.cancel(job_id)

    def _hang_up(self) -> None:
        self._client.hang_up(self.request(next(self.extra_numbers), SLOW), self.chance.uniform(0.1, 1.5))

    def _kill_server(self) -> None:
        self._server.kill()
        self.hit_s = time.monotonic()
        self._start()

    def _stop_server(self) -> None:
        began_s = time.monotonic()
        self._server.stop()
        self.stopped_after(time.monotonic() - began_s)
        self.hit_s = time.monotonic()
        self._start()

    def _webhooks_down(self) -> None:
        self._webhooks.is_down = True
        time.sleep(DOWN_S)
        self._webhooks.is_down = False
        self.hit_s = time.monotonic()

    def _fill_disk(self) -> None:
        with faults.full_disk(self._data):
            time.sleep(FULL_S)
        self.hit_s = time.monotonic()
