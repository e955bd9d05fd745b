"""The RunPod worker under load and faults, with a stand-in for RunPod's side."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from server import PROGRAM, TINY

from tools.soak import faults, usage
from tools.soak.comfyui_faults import ComfyFaults
from tools.soak.faults import until
from tools.soak.runpod_side import Failure, RunPodSide
from tools.soak.soak import RECOVERY_S, SLOW, Options, Report

CLIENTS = 3
CANCELLED = frozenset({"COMPLETED", "CANCELLED"})


def soak(options: Options, on_progress: Callable[[int, str], None]) -> Report:
    """Runs the worker and returns what was found."""
    with WorkerSoak(options, on_progress) as run:
        run.run(CLIENTS)
        return run.report


class WorkerSoak(ComfyFaults):
    """A run of the worker; use it as a context manager."""

    def __init__(self, options: Options, on_progress: Callable[[int, str], None]) -> None:
        super().__init__(options, on_progress)
        self._temporary = options.folder / "tmp"
        self._temporary.mkdir()
        self._runpod = RunPodSide(self.ledger)
        self.kinds = {
            "ComfyUI killed, idle": self.kill_idle,
            "ComfyUI killed, starting": self.kill_starting,
            "ComfyUI killed, in a job": self._kill_in_a_job,
            "ComfyUI stopped, idle": self.stop_idle,
            "ComfyUI paused, in a job": self._pause_in_a_job,
            "connection to ComfyUI cut": self._cut,
            "job stopped by RunPod": self._stop_job,
            "job-take answers 500": lambda: self._runpod.fail_take("500"),
            "job-take is cut": lambda: self._runpod.fail_take("cut"),
            "job-done answers 500": lambda: self._fail_reports("500", "500"),
            "job-done is cut": lambda: self._fail_reports("cut"),
            "job-done hangs": lambda: self._fail_reports("hang"),
            "worker killed": self._kill_worker,
            "worker stopped": self._stop_worker,
        }

    def __enter__(self) -> "WorkerSoak":
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._runpod)
        self._start()
        self._stack.callback(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pid(self) -> int | None:
        return self._process.pid if self._process.poll() is None else None

    def draw(self, number: int) -> None:
        self._runpod.draw(str(number), self.request(number))

    def draw_next(self) -> None:
        number = self.number_for_fault()
        if self._runpod.draw(str(number), self.request(number)):
            self.recovered()

    def leftover_bytes(self) -> int:
        return usage.leftover_bytes(self._temporary, known=set())

    def _start(self) -> None:
        own = {"TMPDIR": str(self._temporary)}
        began_s, polls = time.monotonic(), self._runpod.polls
        self._process = subprocess.Popen(
            [PROGRAM, "worker"],
            env=os.environ | TINY | self._runpod.environment | own,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            cwd="/",
        )
        until(lambda: self._runpod.polls > polls, RECOVERY_S)
        self.report.cold_starts_s.append(time.monotonic() - began_s)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def begin_slow_job(self, may_end: frozenset[str], **_: Any) -> str:
        number = self.number_for_fault()
        job_id = f"slow-{number}"
        self._runpod.begin(job_id, self.request(number, SLOW), may_end)
        until(lambda: job_id in self._runpod.taken, RECOVERY_S)
        time.sleep(self.chance.uniform(0.2, 1.0))
        return job_id

    def has_completed(self, job_id: str) -> bool:
        return self._runpod.wait(job_id)

    def _kill_in_a_job(self) -> None:
        with self.slow_job():
            self.hit_comfyui(signal.SIGKILL)

    def _pause_in_a_job(self) -> None:
        with self.slow_job():
            self.pause()

    def _cut(self) -> None:
        with self.slow_job():
            faults.cut_connections(self._process.pid, self.comfyui())

    def _stop_job(self) -> None:
        with self.slow_job(CANCELLED) as job_id:
            self._runpod.stop_job(job_id)

    def _fail_reports(self, *failures: Failure) -> None:
        self._runpod.fail_reports(*failures)
        self.draw_next()

    def _kill_worker(self) -> None:
        """RunPod gives the jobs of a worker that has died to another one."""
        self._process.kill()
        self._process.wait()
        self.hit_s = time.monotonic()
        self._runpod.give_again()
        self._start()

    def _stop_worker(self) -> None:
        """A worker that stops must report the job that it has; it is not given to another one."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(RECOVERY_S)
        self.stopped_after(time.monotonic() - self.hit_s)
        self.hit_s = time.monotonic()
        self._start()
