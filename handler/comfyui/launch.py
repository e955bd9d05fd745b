"""Starts ComfyUI: its command line, its environment, its folder for temporary files."""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from handler.comfyui import model_paths
from handler.comfyui.child_process import Child
from handler.comfyui.client import ComfyClient
from handler.comfyui.options import Options
from handler.errors import ComfyUnavailable
from handler.settings import Settings

HOST = "127.0.0.1"
NO_SCRATCH = "no folder for temporary files can be written: set TMPDIR, or mount a tmpfs at /tmp"
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


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
