"""`layerdiffuse-alpha version`: the versions of everything that draws a picture."""

import importlib.metadata
import platform
import re
import tomllib
from pathlib import Path

from rich.console import Console

import handler
from handler import logs
from handler.cli import terminal
from handler.errors import GenerationError
from handler.job import profiles
from handler.settings import ROOT, Settings
from handler.weights import locate


def version() -> None:
    """Prints the versions of the worker, Python, ComfyUI, PyTorch and the node pack, and the model."""
    console = Console(highlight=False, soft_wrap=True)
    settings = terminal.settings()
    logs.configure("ERROR", settings.log_format)
    for name, found in versions(settings).items():
        console.print(f"{name:20}{found}", markup=False)


def versions(settings: Settings) -> dict[str, str]:
    """Returns the versions by name; reads files only, and starts nothing."""
    return {
        "layerdiffuse-alpha": handler.__version__,
        "Python": platform.python_version(),
        "ComfyUI": _comfyui(settings.comfyui_dir / "app" / "comfyui_version.py"),
        "PyTorch": _torch(settings.comfyui_dir / "venv"),
        "node pack": _node_pack(ROOT / "custom_nodes" / "layerdiffuse_alpha" / "pyproject.toml"),
        "model": _model(settings),
    }


def _comfyui(file: Path) -> str:
    try:
        found = re.search(r'__version__ = "([^"]+)"', file.read_text("utf-8"))
    except OSError:
        return "not installed"
    return found[1] if found else "unknown"


def _torch(environment: Path) -> str:
    paths = [str(path) for path in environment.glob("lib/python*/site-packages")]
    found = [each.version for each in importlib.metadata.distributions(name="torch", path=paths)]
    return found[0] if found else "not installed"


def _node_pack(file: Path) -> str:
    try:
        return str(tomllib.loads(file.read_text("utf-8"))["project"]["version"])
    except OSError:
        return "not installed"


def _model(settings: Settings) -> str:
    try:
        workflow = profiles.read(settings)
    except GenerationError as exc:
        return str(exc)
    missing = locate.missing(workflow.models, settings)
    fact = f" (missing: {', '.join(map(str, missing))})" if missing else ""
    checkpoint = next((str(file) for file in workflow.models if file.folder == "checkpoints"), "none")
    return f"{checkpoint}, profile {workflow.profile}{fact}"
