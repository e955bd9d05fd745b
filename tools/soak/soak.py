"""One run: clients ask for pictures while faults happen, and a ledger says what became of them."""

import itertools
import random
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.soak import usage
from tools.soak.faults import plan, until
from tools.soak.ledger import Ledger

BASELINE_JOBS = 50  # memory is compared with that after so many jobs
JOBS_IN_FAULT = 6  # jobs that clients may have begun when a fault happens, and while it lasts
RECOVERY_S = 240.0  # a fault after which no job finishes within this time ends the run
WEBHOOKS_S = 60.0
QUICK = {"width": 64, "height": 64, "num_inference_steps": 4}
SLOW = {"width": 256, "height": 256, "num_inference_steps": 16}


@dataclass(frozen=True)
class Options:
    """What a run does.

    Attributes:
        minutes: no fault and no job begins after this time.
    """

    jobs: int
    faults: int
    seed: int
    minutes: float
    folder: Path


@dataclass
class Recovery:
    """What one fault led to.

    Attributes:
        recovery_s: from the fault to the next completed job.
        stop_s: how long the program took to stop, if the fault was a stop signal.
    """

    kind: str
    recovery_s: float | None = None
    stop_s: float | None = None


@dataclass
class Report:
    """What a run found.

    Attributes:
        cold_starts_s: seconds of each start of the program until it was ready.
        skipped: faults that this machine does not allow, with the reason.
    """

    ledger: Ledger
    recoveries: list[Recovery] = field(default_factory=list)
    cold_starts_s: list[float] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    restarts: int = 0
    rss_growth: float = 0.0
    descriptor_growth: int = 0
    disk_growth_bytes: int = 0
    seconds: float = 0.0


class Soak(ABC):
    """Base of the two runs.

    Attributes:
        kinds: the faults by name.
        hit_s: when the last fault happened, on the monotonic clock; recovery is measured from then.
    """

    kinds: dict[str, Callable[[], None]]

    def __init__(self, options: Options, on_progress: Callable[[int, str], None]) -> None:
        self.options = options
        self.ledger = Ledger()
        self.report = Report(self.ledger)
        self.chance = random.Random(options.seed)
        self.log = (options.folder / "program.log").open("wb")
        self.hit_s = 0.0
        self._recovery = Recovery("")
        self._on_progress = on_progress
        self._began_s = time.monotonic()
        self._numbers = iter(range(options.jobs))
        self.extra_numbers = itertools.count(options.jobs)
        self._lock = threading.Lock()
        self._clients_may_draw = threading.Event()
        self._begun = 0
        self._limit = 0  # so many jobs may begin before the next fault has happened
        self._drawing = 0
        self._finished = 0
        self._failure: Exception | None = None
        self._baseline: usage.Usage | None = None
        self._baseline_bytes = 0

    @abstractmethod
    def pid(self) -> int | None:
        """Returns the process id of the program under test, or None while it does not run."""

    @abstractmethod
    def draw(self, number: int) -> None:
        """Makes one job, of which `number` decides everything, and returns at its end."""

    @abstractmethod
    def leftover_bytes(self) -> int:
        """Returns the size of all files except the pictures that answers name."""

    @abstractmethod
    def draw_next(self) -> None:
        """Draws the first job after a fault, and notes that it has completed."""

    def run(self, clients: int) -> None:
        """Has all jobs drawn by so many clients at once while the planned faults happen."""
        threads = [threading.Thread(target=self._draw_jobs, daemon=True) for _ in range(clients)]
        self._clients_may_draw.set()
        with usage.StartCounter(self.pid) as starts:
            for thread in threads:
                thread.start()
            self._inject_faults(threads)
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.1)
                self._look()
            if self._failure is not None:
                raise self._failure
            self.ledger.wait_over(WEBHOOKS_S)
            self._measure_growth()
            self.report.restarts = starts.restarts
        self.report.seconds = time.monotonic() - self._began_s

    def next_number(self) -> int | None:
        """Returns the number of the next job, or None if there are enough."""
        with self._lock:
            self._begun += 1
            return None if self._is_late else next(self._numbers, None)

    def number_for_fault(self) -> int:
        """Returns the number of a job that a fault needs: the next one, or another if there are enough."""
        number = self.next_number()
        return next(self.extra_numbers) if number is None else number

    def request(self, number: int, size: dict[str, int] = QUICK) -> dict[str, object]:
        """Returns the input of job `number`."""
        return {"prompt": f"a red apple, number {number}", "seed": number, **size}

    def quiet(self) -> None:
        """Lets the clients finish their jobs and begin no others until `resume`."""
        self._clients_may_draw.clear()
        until(lambda: self._drawing == 0, RECOVERY_S)

    def resume(self) -> None:
        self._clients_may_draw.set()

    @property
    def _is_late(self) -> bool:
        return time.monotonic() - self._began_s > 60 * self.options.minutes

    def _draw_jobs(self) -> None:
        while True:
            until(lambda: self._clients_may_draw.is_set() and self._begun < self._limit, 60 * self.options.minutes)
            if (number := self.next_number()) is None:
                return
            with self._lock:
                self._drawing += 1
            try:
                self.draw(number)
            except Exception as exc:  # any, since it would end the thread unseen
                self._failure = self._failure or exc
                raise
            finally:
                with self._lock:
                    self._drawing -= 1

    def _inject_faults(self, threads: list[threading.Thread]) -> None:
        jobs = self.options.jobs
        first = min(BASELINE_JOBS, jobs // 5)
        for after, kind in plan(list(self.kinds), self.options.faults, first, jobs * 9 // 10, self.chance):
            self._limit = after + JOBS_IN_FAULT
            while self._finished < after and any(thread.is_alive() for thread in threads) and not self._is_late:
                time.sleep(0.05)
                self._look()
            if self._is_late:
                break
            recovery = self._recovery = Recovery(kind)
            self.report.recoveries.append(recovery)
            self.hit_s = time.monotonic()
            self.kinds[kind]()
            self.resume()
            if recovery.recovery_s is None:
                self.draw_next()
            self._look()
        self._limit = sys.maxsize

    def recovered(self) -> None:
        """Notes that a job has completed after the fault."""
        self._recovery.recovery_s = time.monotonic() - self.hit_s

    def stopped_after(self, seconds: float) -> None:
        self._recovery.stop_s = seconds

    def _look(self) -> None:
        self._finished = sum(job.is_over for job in self.ledger.jobs)
        kind = self.report.recoveries[-1].kind if self.report.recoveries else "no fault yet"
        self._on_progress(self._finished, kind)
        if self._baseline is None and self._finished >= min(BASELINE_JOBS, self.options.jobs // 5):
            self._baseline = usage.now(self.pid() or 0)
            self._baseline_bytes = self.leftover_bytes()

    def _measure_growth(self) -> None:
        last = usage.now(self.pid() or 0)
        if self._baseline is not None and last is not None:
            self.report.rss_growth = last.rss_bytes / self._baseline.rss_bytes - 1
            self.report.descriptor_growth = last.descriptors - self._baseline.descriptors
            self.report.disk_growth_bytes = self.leftover_bytes() - self._baseline_bytes
