"""Compiles what every start imports, once.

Many machines set PYTHONDONTWRITEBYTECODE, and uv does not compile. Without bytecode, each start of
ComfyUI compiles 4,400 modules again, which takes longer than the start itself. Only modules that a
start really imports are compiled: the environments have 18,800 files, and compiling all takes minutes.
"""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from installer import command, environment
from installer.errors import SetupError

TIMEOUT_S = 600.0
MARKER = ".bytecode"
HANDLER = """
import importlib, pkgutil
import handler, runpod.serverless
for module in pkgutil.walk_packages(handler.__path__, "handler."):
    importlib.import_module(module.name)
"""
COMFYUI = ("--quick-test-for-ci", "--cpu", "--disable-all-custom-nodes", "--disable-api-nodes")


def compile_handler(root: Path) -> str:
    """Compiles all modules of the handler and their imports; returns the result in words."""
    folder = root / ".venv"
    return compile_imports(folder, [folder / environment.STAMP], ["-c", HANDLER], root)


def compile_comfyui(root: Path) -> str:
    """Compiles what ComfyUI imports until it is ready to serve; returns the result in words."""
    folder, app = root / ".comfyui/venv", root / ".comfyui/app"
    stamps = (folder / environment.STAMP, app.with_suffix(".json"))
    with tempfile.TemporaryDirectory(prefix="setup-") as scratch:
        folders = ("--base-directory", scratch, "--front-end-root", scratch)
        options = (*COMFYUI, *folders, "--database-url", "sqlite:///:memory:")
        return compile_imports(folder, stamps, [app / "main.py", *options], root)


def compile_imports(folder: Path, installed: Iterable[Path], arguments: Sequence[str | Path], root: Path) -> str:
    """Runs the environment's Python with `arguments`, unless it has run since the last install."""
    marker = folder / MARKER
    if _is_newer(marker, installed):
        return "ok"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        done = command.run([folder / "bin/python", *arguments], timeout_s=TIMEOUT_S, env=env, cwd=root)
    except SetupError as exc:
        return f"not finished: {exc}"
    if done.returncode != 0:
        return f"not finished, exit status {done.returncode}: {command.last_line(done.stderr)}"
    marker.touch()
    return "compiled"


def _is_newer(marker: Path, others: Iterable[Path]) -> bool:
    if not marker.exists():
        return False
    made_ns = marker.stat().st_mtime_ns
    return all(not other.exists() or other.stat().st_mtime_ns <= made_ns for other in others)
