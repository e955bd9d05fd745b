"""ComfyUI as a supervised child process on a free loopback port."""

import collections
import contextlib
import io
import logging
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from handler.comfyui import ending, machine, model_paths, options
from handler.comfyui.client import ComfyClient
from handler.deadline import Deadline
from handler.errors import ComfyUnavailable, JobTimeout
from handler.settings import Settings

HOST = "127.0.0.1"
READY_POLL_S = 0.1
STOP_GRACE_S = 5.0
RELAY_GRACE_S = 1.0  # for the last lines of a child that has ended
TAIL_LINES = 40
ANSI_STYLE = re.compile(r"\x1b\[[\d;]*m")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)

log = logging.getLogger(__name__)
comfyui_log = logging.getLogger("comfyui")


class ComfyProcess:
    """Starts ComfyUI, restarts it if it has ended, and stops it. Safe to use from several threads.

    As a context manager it stops ComfyUI at the end of the block.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._starts = 0
        self._xformers_failure = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def client(self, deadline: Deadline) -> ComfyClient:
        """Returns a client of the running ComfyUI; starts it if need be, and waits until it is ready.

        Raises:
            ComfyUnavailable: it is not installed, or ended while starting.
            JobTimeout, JobCancelled: by `deadline`.
        """
        with self._lock:
            if self._running is None or self._running.child.poll() is not None:
                self._spawn()
            running = self._running
            assert running is not None
        if not running.ready:
            self._wait(running, deadline)
        return running.client

    @property
    def pid(self) -> int | None:
        """Process id of ComfyUI; None if it does not run."""
        running = self._running
        return running.child.pid if running is not None and running.child.poll() is None else None

    def restarts(self) -> int:
        """Returns how often ComfyUI was restarted."""
        return max(0, self._starts - 1)

    def restart(self, failed: ComfyClient) -> None:
        """Kills the ComfyUI that `failed` talks to and starts another one; does not wait until it is ready.

        Does nothing if that has already happened, so that several jobs can report the same failure.
        """
        with self._lock:
            if self._running is not None and self._running.client is failed:
                self._running.child.kill()
                self._spawn()

    def avoid_xformers(self, reason: str) -> bool:
        """Restarts ComfyUI with PyTorch's attention, which it keeps from now on.

        Does nothing and returns False unless ATTENTION=auto chose xformers.

        Args:
            reason: why xformers is avoided, for the log.
        """
        with self._lock:
            if self._settings.attention != "auto" or self.options().attention != "xformers":
                return False
            self._xformers_failure = reason
            self._spawn()
            return True

    def stop(self) -> None:
        """Stops ComfyUI and removes its files; does nothing if it does not run."""
        with self._lock:
            self._end()

    def _wait(self, running: "_Running", deadline: Deadline) -> None:
        while not running.client.is_ready():
            status = running.child.poll()
            if status is not None:
                running.relay.join(RELAY_GRACE_S)
                log.error("ComfyUI ended while starting", extra={"status": status, "last_lines": list(running.tail)})
                raise ComfyUnavailable(f"ComfyUI ended while starting: {ending.reason(status, list(running.tail))}")
            try:
                running.start.left_s()
            except JobTimeout:
                running.child.kill()
                running.child.wait()
                raise ComfyUnavailable(f"ComfyUI was not ready after {self._settings.start_timeout_s:g} s") from None
            deadline.sleep(READY_POLL_S)
        running.ready = True
        log.info("ComfyUI ready", extra={"pid": running.child.pid})

    def options(self) -> options.Options:
        """Returns how ComfyUI is started on this machine, and why."""
        settings = self._settings
        return options.choose(settings, machine.look(settings), on_cpu(settings), self._xformers_failure)

    def _spawn(self) -> None:
        self._end()
        port = _free_port()
        chosen = self.options()
        try:
            scratch = tempfile.TemporaryDirectory(prefix="comfyui-", ignore_cleanup_errors=True)
            with contextlib.ExitStack() as undo:
                undo.callback(scratch.cleanup)
                child = _start(self._settings, chosen, port, Path(scratch.name))
                undo.pop_all()
        except FileNotFoundError as exc:
            raise ComfyUnavailable("ComfyUI is not installed in COMFYUI_DIR") from exc
        except OSError as exc:
            raise ComfyUnavailable(f"ComfyUI cannot be started: {exc.strerror}") from exc
        self._starts += 1
        start = Deadline(self._settings.start_timeout_s)
        tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        relay = threading.Thread(target=_relay, args=(child, tail), daemon=True)
        relay.start()
        self._running = _Running(child, ComfyClient(f"{HOST}:{port}"), scratch, start, tail, relay)
        log.info("ComfyUI starting", extra={"pid": child.pid, "port": port, **chosen.reasons})

    def _end(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        child = running.child
        child.terminate()
        try:
            child.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdin is not None:
            child.stdin.close()
        running.client.close()
        running.scratch.cleanup()


@dataclass
class _Running:
    child: subprocess.Popen[bytes]
    client: ComfyClient
    scratch: tempfile.TemporaryDirectory[str]
    start: Deadline
    tail: collections.deque[str]
    relay: threading.Thread
    ready: bool = False


def _relay(child: subprocess.Popen[bytes], tail: collections.deque[str]) -> None:
    """Logs what the child prints; progress bars redraw themselves with carriage returns."""
    assert child.stdout is not None
    with io.TextIOWrapper(child.stdout, errors="replace", newline="\n") as lines:
        for line in lines:
            text = ANSI_STYLE.sub("", line.rstrip().rsplit("\r", 1)[-1])
            if text:
                tail.append(text)
                comfyui_log.info(text)


def _start(settings: Settings, chosen: options.Options, port: int, scratch: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 -- every part is ours
        _command(settings, chosen.arguments, port, scratch),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(chosen.environment),
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def has_gpu() -> bool:
    """Returns whether there is a GPU that PyTorch can use: an NVIDIA device, WSL's, or Apple's own."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists() or sys.platform == "darwin"


def on_cpu(settings: Settings) -> bool:
    """Returns whether ComfyUI runs without a GPU."""
    return settings.device == "cpu" or (settings.device == "auto" and not has_gpu())


def _command(settings: Settings, arguments: Iterable[str], port: int, scratch: Path) -> list[str]:
    comfyui = settings.comfyui_dir
    folders = {name: scratch / name for name in ("output", "input", "temp", "user")}
    for folder in folders.values():
        folder.mkdir()
    config = model_paths.write(settings, scratch)
    return [
        str(comfyui / "venv" / "bin" / "python"),
        "-u",
        str(Path(__file__).with_name("child.py")),
        *(str(scratch), str(comfyui / "app" / "main.py")),
        *("--listen", HOST, "--port", str(port)),
        *("--base-directory", str(comfyui / "data"), "--models-directory", str(settings.models_dir)),
        *(part for name, folder in folders.items() for part in (f"--{name}-directory", str(folder))),
        *(["--extra-model-paths-config", str(config)] if config else []),
        *("--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--preview-method", "none"),
        *arguments,
        *shlex.split(settings.comfyui_args),
    ]


def _environment(defaults: Mapping[str, str]) -> dict[str, str]:
    """Returns the child's environment: no secrets, and nothing is downloaded at run time."""
    environment = {name: value for name, value in os.environ.items() if not SECRET.search(name)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a start without bytecode takes more than twice as long
    return {**defaults, **environment, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
