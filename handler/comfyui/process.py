"""Keeps one ComfyUI running: starts it, watches it, restarts it after an end, and gives it up if nothing helps."""

import logging
import subprocess
import threading
import time
from typing import Self

from handler.comfyui import launch, machine, options
from handler.comfyui.child import BROKEN_STATUS
from handler.comfyui.child_process import Child
from handler.comfyui.client import ComfyClient
from handler.comfyui.recovery import Attempts, Fault, Recovery, Remedy, fault_of
from handler.deadline import Deadline
from handler.errors import ComfyBroken, ComfyCrashed, ComfyUnavailable, GenerationError
from handler.settings import Settings

POLL_S = 0.1
NOTICE_S = 1.0  # after its connections have closed, a process is gone within milliseconds

log = logging.getLogger(__name__)


class ComfyProcess:
    """Keeps ComfyUI running from the first `client` to `stop`. Safe to use from several threads.

    A thread of its own starts ComfyUI, waits for its end and starts it again. `handler.comfyui.recovery`
    decides when, and what happens to the jobs. As a context manager it stops ComfyUI at the end of the block.

    Attributes:
        unfit: set while no job should wait for ComfyUI: it was given up, or fails at every start.
        unfit_reason: why.
    """

    def __init__(self, settings: Settings) -> None:
        self.unfit = threading.Event()
        self.unfit_reason = ""
        self._settings = settings
        self._changed = threading.Condition()
        self._recovery = Recovery()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._child: Child | None = None
        self._ended: Child | None = None
        self._starts = 0
        self._is_closed = False
        self._xformers_failure = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def begin(self) -> None:
        """Starts ComfyUI unless it runs, without waiting until it is ready; raises after `stop`, like `client`."""
        with self._changed:
            if self._is_closed:
                raise ComfyUnavailable("ComfyUI was stopped")
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(target=self._keep_running, args=(self._stop,), daemon=True)
                self._thread.start()

    def client(self, deadline: Deadline) -> ComfyClient:
        """Returns a client of the running ComfyUI; starts it if need be, and waits until it is ready.

        Raises:
            ComfyUnavailable: it does not start, or was given up.
            JobTimeout, JobCancelled: by `deadline`.
        """
        self.begin()
        with self._changed:
            while self._child is None or not self._child.is_ready:
                if self.unfit.is_set() or self._stop.is_set():
                    raise ComfyUnavailable(self.unfit_reason or "ComfyUI was stopped")
                self._changed.wait(min(POLL_S, deadline.left_s()))
            return self._child.client

    @property
    def pid(self) -> int | None:
        """Process id of ComfyUI; None if it does not run."""
        child = self._child
        return child.process.pid if child is not None and child.process.poll() is None else None

    @property
    def is_ready(self) -> bool:
        """Whether ComfyUI takes graphs."""
        child = self._child
        return child is not None and child.is_ready

    def start_times_s(self) -> tuple[float, float] | None:
        """Returns when ComfyUI was started and when it was ready, on the monotonic clock; None if it is not."""
        child = self._child
        return None if child is None or child.ready_s is None else (child.started_s, child.ready_s)

    def restarts(self) -> int:
        """Returns how often ComfyUI was restarted."""
        return max(0, self._starts - 1)

    def drew(self) -> None:
        """Notes that ComfyUI has drawn a picture, which shows that it works."""
        with self._changed:
            self._recovery.drawn()

    def recover(self, client: ComfyClient, error: GenerationError, attempts: Attempts) -> None:
        """Prepares the next attempt of a job after an error.

        Args:
            client: whose run ended with the error.
            attempts: the job's; the error is counted in it.

        Raises:
            GenerationError: the job fails; the error with its cause.
        """
        if fault_of(error) is Fault.LOST and (ended := self._end_of(client)):
            kind = ComfyBroken if ended.process.returncode == BROKEN_STATUS else ComfyCrashed
            error = kind(ended.reason, isinstance(error, ComfyCrashed) and error.begun)
        with self._changed:
            remedy = self._recovery.after(error, attempts)
        if remedy is Remedy.GIVE_UP:
            self.give_up(error.message)
        elif remedy is Remedy.RESTART_AND_RUN_AGAIN or client.is_stuck:
            self.restart(client, error.message)
        elif remedy is Remedy.FREE_AND_RUN_AGAIN:
            client.free()
        if remedy in {Remedy.FAIL, Remedy.GIVE_UP}:
            raise error
        log.warning("job runs again", extra={"attempt": attempts.count, "code": error.code, "reason": error.message})

    def restart(self, failed: ComfyClient, reason: str) -> None:
        """Kills the ComfyUI that `failed` talks to, and so restarts it, unless another job has done that."""
        with self._changed:
            if self._child is not None and self._child.client is failed:
                self._child.kill(reason)

    def options(self) -> options.Options:
        """Returns how ComfyUI is started on this machine, and why."""
        settings = self._settings
        return options.choose(settings, machine.look(settings), machine.on_cpu(settings), self._xformers_failure)

    def avoid_xformers(self, reason: str) -> bool:
        """Stops ComfyUI, which starts with PyTorch's attention from now on.

        Does nothing and returns False unless ATTENTION=auto chose xformers. `reason` is for the log.
        """
        if self._settings.attention != "auto" or self.options().attention != "xformers":
            return False
        self._end()
        self._xformers_failure = reason
        self._recovery = Recovery()  # what failed so far may have been due to xformers
        self.unfit.clear()
        return True

    def stop(self) -> None:
        """Stops ComfyUI for good and removes its files."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        with self._changed:
            thread, self._thread = self._thread, None
            self._stop.set()
            if self._child is not None:
                self._child.kill("it was stopped")  # it has nothing to save, and may hang
        if thread is not None:
            thread.join()

    def give_up(self, reason: str) -> None:
        """Stops ComfyUI for good, and makes jobs fail with this reason from now on."""
        with self._changed:
            self._stop.set()
            self._set_unfit(reason)
            if self._child is not None:
                self._child.kill(reason)

    def _set_unfit(self, reason: str) -> None:
        log.critical("ComfyUI is given up", extra={"reason": reason})
        self.unfit_reason = reason
        self.unfit.set()
        self._changed.notify_all()

    def _end_of(self, client: ComfyClient) -> Child | None:
        """Returns the ComfyUI that `client` talked to if it has ended; waits a moment for that to be noticed."""
        with self._changed:
            self._changed.wait_for(lambda: self._child is None or self._child.client is not client, NOTICE_S)
            return self._ended if self._ended is not None and self._ended.client is client else None

    def _keep_running(self, stop: threading.Event) -> None:
        try:
            self._start_again_and_again(stop)
        except Exception:
            log.exception("ComfyUI is no longer watched")
            self.give_up("unexpected error, see the worker log")

    def _start_again_and_again(self, stop: threading.Event) -> None:
        while not stop.is_set():
            was_ready, up_s, reason = self._live(stop)
            if stop.is_set():
                return
            with self._changed:
                restart = self._recovery.ended(was_ready, up_s)
                if restart.hopeless:
                    self._set_unfit(reason)
            stop.wait(restart.after_s)

    def _live(self, stop: threading.Event) -> tuple[bool, float, str]:
        """Starts ComfyUI and waits for its end. Returns whether it was ready, for how many seconds, why it ended."""
        chosen = self.options()
        try:
            child = launch.start(self._settings, chosen)
        except ComfyUnavailable as exc:
            log.error("ComfyUI cannot be started", extra={"reason": exc.message})  # noqa: TRY400
            return False, 0.0, exc.message
        log.info("ComfyUI starting", extra={"pid": child.process.pid, **chosen.reasons})
        with self._changed:
            self._child = child
            self._starts += 1
            if stop.is_set():
                child.kill("it was stopped")
        self._wait_until_ready(child)
        status = child.wait()
        up_s = time.monotonic() - child.ready_s if child.ready_s is not None else 0.0
        with self._changed:
            self._child, self._ended = None, child
            self._changed.notify_all()
        if not stop.is_set():
            fields = {"pid": child.process.pid, "status": status, "reason": child.reason}
            log.error("ComfyUI ended", extra={**fields, "last_lines": list(child.last_lines)})
        return child.ready_s is not None, up_s, child.reason

    def _wait_until_ready(self, child: Child) -> None:
        """Returns when ComfyUI is ready, has ended, or was killed because it took too long."""
        end_s = time.monotonic() + self._settings.start_timeout_s
        while True:
            try:
                child.process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                if child.client.is_ready():
                    break
                if time.monotonic() > end_s:
                    child.kill(f"ComfyUI was not ready after {self._settings.start_timeout_s:g} s")
            else:
                return
        log.info("ComfyUI ready", extra={"pid": child.process.pid})
        with self._changed:
            child.became_ready()
            self.unfit.clear()
            self._changed.notify_all()
