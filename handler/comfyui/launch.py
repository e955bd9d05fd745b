"""One ComfyUI process: its command line, its environment, what it prints, its folder for temporary files."""

import collections
import contextlib
import io
import logging
import os
import re
import shlex
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from handler.comfyui import ending, model_paths
from handler.comfyui.client import ComfyClient
from handler.comfyui.options import Options
from handler.errors import ComfyUnavailable
from handler.settings import Settings

HOST = "127.0.0.1"
NO_SCRATCH = "no folder for temporary files can be written: set TMPDIR, or mount a tmpfs at /tmp"
TAIL_LINES = 40
RELAY_GRACE_S = 1.0  # for the last lines of a process that has ended
ANSI_STYLE = re.compile(r"\x1b\[[\d;]*m")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)

comfyui_log = logging.getLogger("comfyui")


class Child:
    """One ComfyUI process, from its start to its end.

    Attributes:
        process: as the standard library sees it.
        client: speaks to it.
        ready_s: when it became ready, on the monotonic clock; None until then.
        reason: why it ended, or is about to; empty until then.
        last_lines: what it printed last.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], client: ComfyClient, scratch: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.process = process
        self.client = client
        self.ready_s: float | None = None
        self.reason = ""
        self.last_lines: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._scratch = scratch
        self._relay = threading.Thread(target=self._log_output, daemon=True)
        self._relay.start()

    @property
    def is_ready(self) -> bool:
        """Whether it takes graphs."""
        return self.ready_s is not None and not self.reason

    def kill(self, reason: str) -> None:
        """Ends it at once; `wait` returns soon."""
        self.reason = reason
        self.process.kill()

    def wait(self) -> int:
        """Waits for its end, cleans up after it, and returns its exit status."""
        status = self.process.wait()
        self._relay.join(RELAY_GRACE_S)
        if not self.reason:
            stage = "" if self.ready_s is not None else " while starting"
            self.reason = f"ComfyUI ended{stage}: {ending.reason(status, list(self.last_lines))}"
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.client.close()
        self._scratch.cleanup()
        return status

    def _log_output(self) -> None:
        assert self.process.stdout is not None
        with io.TextIOWrapper(self.process.stdout, errors="replace", newline="\n") as lines:
            for line in lines:
                # Progress bars redraw themselves with carriage returns.
                text = ANSI_STYLE.sub("", line.rstrip().rsplit("\r", 1)[-1])
                if text:
                    self.last_lines.append(text)
                    comfyui_log.info(text)


def start(settings: Settings, chosen: Options) -> Child:
    """Returns a new ComfyUI on a free loopback port; it is not ready yet.

    Raises:
        ComfyUnavailable: it is not installed, or the system refuses.
    """
    port = _free_port()
    try:
        scratch = tempfile.TemporaryDirectory(prefix="comfyui-", ignore_cleanup_errors=True)
    except FileNotFoundError as exc:
        raise ComfyUnavailable(NO_SCRATCH) from exc
    except OSError as exc:
        raise ComfyUnavailable(f"ComfyUI cannot be started: {exc.strerror}") from exc
    try:
        with contextlib.ExitStack() as undo:
            undo.callback(scratch.cleanup)
            process = _popen(settings, chosen, port, Path(scratch.name))
            undo.pop_all()
    except OSError as exc:
        if not _python(settings).exists():
            raise ComfyUnavailable("ComfyUI is not installed in COMFYUI_DIR") from exc
        raise ComfyUnavailable(f"ComfyUI cannot be started: {exc.strerror}") from exc
    return Child(process, ComfyClient(f"{HOST}:{port}"), scratch)


def _popen(settings: Settings, chosen: Options, port: int, scratch: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 -- every part is ours
        _command(settings, chosen.arguments, port, scratch),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(chosen.environment, scratch),
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _python(settings: Settings) -> Path:
    return settings.comfyui_dir / "venv" / "bin" / "python"


def _command(settings: Settings, arguments: Iterable[str], port: int, scratch: Path) -> list[str]:
    comfyui = settings.comfyui_dir
    folders = {name: scratch / name for name in ("output", "input", "temp", "user")}
    frontend = scratch / "frontend"  # empty: only scripts/gui installs the GUI
    for folder in (*folders.values(), frontend):
        folder.mkdir()
    config = model_paths.write(settings, scratch)
    return [
        str(_python(settings)),
        "-u",
        str(Path(__file__).with_name("child.py")),
        *(str(scratch), str(comfyui / "app" / "main.py")),
        *("--listen", HOST, "--port", str(port)),
        *("--base-directory", str(comfyui / "data"), "--models-directory", str(settings.models_dir)),
        *(part for name, folder in folders.items() for part in (f"--{name}-directory", str(folder))),
        *("--front-end-root", str(frontend)),
        *(["--extra-model-paths-config", str(config)] if config else []),
        *("--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--preview-method", "none"),
        *arguments,
        *shlex.split(settings.comfyui_args),
    ]


def _environment(defaults: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Returns the child's environment: no secrets, nothing is downloaded at run time, and any user will do."""
    environment = {name: value for name, value in os.environ.items() if not SECRET.search(name)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a start without bytecode takes more than twice as long
    own = {
        # PyTorch asks for the user's name, which a user id without an entry in /etc/passwd does not have.
        "USER": "worker",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "torchinductor"),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "PYTHONUTF8": "1",
    }
    if not os.access(environment.get("HOME", ""), os.W_OK, effective_ids=True):
        environment["HOME"] = str(scratch)
    return {**own, **defaults, **environment, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
