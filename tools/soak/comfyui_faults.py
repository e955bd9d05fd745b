"""Faults of ComfyUI, which happen to the server and to the worker alike."""

import contextlib
import signal
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import psutil

from tools.soak import faults
from tools.soak.faults import until
from tools.soak.ledger import COMPLETED
from tools.soak.soak import RECOVERY_S, Soak

PAUSE_S = 5.0


class ComfyFaults(Soak):
    """A run with these faults."""

    @abstractmethod
    def begin_slow_job(self, may_end: frozenset[str], **how: Any) -> str:
        """Returns the id of a job that takes seconds, as soon as ComfyUI draws it.

        Args:
            may_end: statuses that are right for it.
            how: what the two runs differ in.
        """

    @abstractmethod
    def has_completed(self, job_id: str) -> bool:
        """Waits for the end of a job, and returns whether it completed."""

    @contextlib.contextmanager
    def slow_job(self, may_end: frozenset[str] = COMPLETED, **how: Any) -> Iterator[str]:
        """Yields the id of a job that is drawn; at the end of the block it is over."""
        job_id = self.begin_slow_job(may_end, **how)
        self.hit_s = time.monotonic()
        yield job_id
        if self.has_completed(job_id):
            self.recovered()

    def comfyui(self) -> psutil.Process | None:
        pid = self.pid()
        return None if pid is None else faults.comfyui_of(pid)

    def hit_comfyui(self, signum: signal.Signals) -> None:
        faults.hit(self.comfyui(), signum)
        self.hit_s = time.monotonic()

    def kill_idle(self) -> None:
        self.quiet()
        self.hit_comfyui(signal.SIGKILL)
        self.draw_next()

    def kill_starting(self) -> None:
        killed = self.comfyui()
        faults.hit(killed, signal.SIGKILL)
        until(lambda: (one := self.comfyui()) is not None and one != killed, RECOVERY_S)
        time.sleep(self.chance.uniform(0.1, 3.0))
        self.hit_comfyui(signal.SIGKILL)

    def stop_idle(self) -> None:
        self.quiet()
        self.hit_comfyui(signal.SIGSTOP)
        self.draw_next()

    def pause(self) -> None:
        self.hit_comfyui(signal.SIGSTOP)
        time.sleep(PAUSE_S)
        self.hit_comfyui(signal.SIGCONT)
