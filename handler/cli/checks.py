"""The checks of `doctor`: everything that a picture needs, and how to fix what is wrong."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from handler.comfyui.machine import has_gpu, on_cpu
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import GenerationError
from handler.job import profiles
from handler.job.generate import Generator
from handler.server.address import is_protected
from handler.settings import Settings
from handler.weights import header, locate
from handler.workflow.workflow import ModelFile, Workflow

PROBE_TIMEOUT_S = 120
FREE_BYTES = 2_000_000_000
SDXL_MEMORY_BYTES = 15_000_000_000
PATCH_NOT_APPLIED = "PatchNotApplied"  # raised by the node pack if ComfyUI samples without the patch
PROBE = """
import importlib.util, json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "torch": torch.__version__,
    "xformers": importlib.util.find_spec("xformers") is not None,
    "gpus": [{"name": gpu.name, "bytes": gpu.total_memory} for gpu in gpus],
}))
"""


class Severity(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: what was checked.
        fact: what was found.
        remedy: how to fix it; empty if it is fine.
    """

    severity: Severity
    subject: str
    fact: str
    remedy: str = ""


def findings(settings: Settings, draws: bool = True) -> Iterator[Finding]:
    """Yields one finding after another; stops if the next one could only follow from the last.

    Args:
        draws: also start ComfyUI and draw a picture.
    """
    python = settings.comfyui_dir / "venv" / "bin" / "python"
    if not python.is_file() or not (settings.comfyui_dir / "app" / "main.py").is_file():
        yield Finding(Severity.WRONG, "ComfyUI", "not installed in COMFYUI_DIR", "run scripts/setup")
        return
    yield Finding(Severity.OK, "ComfyUI", "installed")
    found = list(_engine(python, settings))
    yield from found
    if any(finding.severity is Severity.WRONG for finding in found):
        return
    try:
        workflow = profiles.read(settings)
    except GenerationError as exc:
        yield Finding(
            Severity.WRONG, "workflow", exc.message, "edit the workflow, or restore workflows/ from the repository"
        )
        return
    yield Finding(Severity.OK, "workflow", f"{workflow.name}, profile {workflow.profile}")
    if workflow.profile == profiles.FALLBACK_PROFILE and settings.profile == "auto":
        remedy = "run `layerdiffuse-alpha models fetch` to use SDXL"
        yield Finding(Severity.NOTE, "profile", "SDXL weights not found, using the tiny model", remedy)
    parts = [*_transparency(settings, workflow), *(_weight(settings, file) for file in workflow.models)]
    yield from parts
    yield from _machine(settings)
    if draws and all(finding.severity is Severity.OK for finding in parts):
        yield _picture(settings, workflow)


def _engine(python: Path, settings: Settings) -> Iterator[Finding]:
    try:
        probe = subprocess.run(  # noqa: S603 -- every part is ours
            [python, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True
        )
        facts = json.loads(probe.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        yield Finding(Severity.WRONG, "PyTorch", f"cannot be imported: {type(exc).__name__}", "run scripts/setup")
        return
    yield Finding(Severity.OK, "PyTorch", facts["torch"])
    for gpu in facts["gpus"]:
        small = gpu["bytes"] < SDXL_MEMORY_BYTES
        remedy = "SDXL at 1024x1024 is meant for 24 GB" if small else ""
        yield Finding(
            Severity.NOTE if small else Severity.OK, "GPU", f"{gpu['name']}, {gpu['bytes'] / 1e9:.0f} GB", remedy
        )
    if facts["gpus"] and not facts["xformers"]:
        yield Finding(Severity.NOTE, "xformers", "not installed, using PyTorch's attention", "run scripts/setup")
    if not facts["gpus"] and has_gpu() and not on_cpu(settings):
        remedy = "install a driver for CUDA 12.8 or newer, or set DEVICE=cpu"
        yield Finding(Severity.WRONG, "GPU", "found, but PyTorch cannot use it", remedy)
    elif not facts["gpus"]:
        remedy = "fine for the tiny model; SDXL takes minutes per picture"
        yield Finding(Severity.NOTE, "GPU", "none", remedy)


def _transparency(settings: Settings, workflow: Workflow) -> list[Finding]:
    """Returns why the graph cannot draw transparent pictures, or that it can."""
    faults = profiles.findings(workflow, settings)
    if faults:
        return [Finding(Severity.WRONG, fault.node, fault.fact, fault.remedy) for fault in faults]
    fact = "merged into the checkpoint" if profiles.is_merged(workflow, settings) else "applied by the graph"
    return [Finding(Severity.OK, "patch", fact)]


def _weight(settings: Settings, file: ModelFile) -> Finding:
    found = locate.find(file, settings)
    path = found.path if found else settings.models_dir / file.folder / file.name
    remedy = "layerdiffuse-alpha models fetch, or for the tiny model, git checkout models"
    if not os.path.exists(path):  # noqa: PTH110 -- Path.exists() raises if the folder may not be entered
        return Finding(Severity.WRONG, str(file), "missing", remedy)
    try:
        tensors = header.shapes(header.read(path))
    except header.BadHeader as exc:
        return Finding(Severity.WRONG, str(file), str(exc), remedy)
    place = "" if path.is_relative_to(settings.models_dir) else f", in {path.parent}"
    return Finding(Severity.OK, str(file), f"{path.stat().st_size / 1e6:,.1f} MB, {len(tensors)} tensors{place}")


def _machine(settings: Settings) -> Iterator[Finding]:
    folder = next(parent for parent in (settings.data_dir, *settings.data_dir.absolute().parents) if parent.exists())
    free_bytes = shutil.disk_usage(folder).free
    remedy = "" if free_bytes > FREE_BYTES else "free some space, or set DATA_DIR to a folder on another disk"
    yield Finding(
        Severity.NOTE if remedy else Severity.OK, "disk", f"{free_bytes / 1e9:.1f} GB free for DATA_DIR", remedy
    )
    address = f"{settings.listen_host}:{settings.port}"
    try:
        family = socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET
        with socket.create_server((settings.listen_host, settings.port), family=family):
            yield Finding(Severity.OK, "address", f"{address} is free")
    except OSError as exc:
        remedy = "stop the program that uses it, or set PORT; fine if it is this server"
        yield Finding(Severity.NOTE, "address", f"{address} cannot be used: {exc.strerror}", remedy)
    if not is_protected(settings):
        yield Finding(
            Severity.WRONG, "API_KEYS", f"not set, and {address} can be reached from other machines", "set API_KEYS"
        )


def _picture(settings: Settings, workflow: Workflow) -> Finding:
    try:
        with ComfyProcess(settings) as comfyui:
            generator = Generator(workflow, comfyui, settings)
            generator.start()
            request = generator.parse({"prompt": "a red apple", "seed": 7})
            info = generator.generate(request, Deadline(settings.job_timeout_s)).info
    except GenerationError as exc:
        if PATCH_NOT_APPLIED in exc.message:
            return Finding(Severity.WRONG, "patch", exc.message, "run scripts/setup to install the pinned ComfyUI")
        return Finding(
            Severity.WRONG, "test picture", str(exc), "see docs/errors.md; LOG_LEVEL=INFO shows ComfyUI's log"
        )
    fact = f"{info['width']}x{info['height']}, {info['alpha']['transparent']:.0%} transparent"
    return Finding(Severity.OK, "test picture", f"{fact}, in {info['seconds']['total']:.1f} s")
