"""Looks at everything a picture needs, and says how to mend what is wrong."""

import json
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from handler.comfyui.process import ComfyProcess, has_gpu, on_cpu
from handler.deadline import Deadline
from handler.errors import GenerationError
from handler.job import profiles
from handler.job.generate import Generator
from handler.server.access import is_loopback
from handler.settings import Settings
from handler.weights import locate
from handler.workflow.workflow import ModelFile, Workflow

PROBE_TIMEOUT_S = 120
FREE_BYTES = 2_000_000_000
SDXL_MEMORY_BYTES = 15_000_000_000
PATCHING = re.compile("LayeredDiffusion.*Apply")  # node classes that put a patch on the model
MERGED = "layerdiffuse_merged"  # metadata of a checkpoint that scripts/merge-patch has put it into
PROBE = """
import importlib.util, json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "torch": torch.__version__,
    "xformers": importlib.util.find_spec("xformers") is not None,
    "gpus": [{"name": gpu.name, "bytes": gpu.total_memory} for gpu in gpus],
}))
"""


class Verdict(StrEnum):
    """How a finding is."""

    GOOD = "ok"
    ODD = "note"
    BAD = "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what it is.
        fact: what was found.
        remedy: how to mend it, where it is not good.
    """

    verdict: Verdict
    subject: str
    fact: str
    remedy: str = ""


def examine(settings: Settings, draws: bool = True) -> Iterator[Finding]:
    """Yields one finding after another; stops where the next would only follow from the last.

    Args:
        draws: also start ComfyUI and draw a picture.
    """
    python = settings.comfyui_dir / "venv" / "bin" / "python"
    if not python.is_file() or not (settings.comfyui_dir / "app" / "main.py").is_file():
        yield Finding(Verdict.BAD, "ComfyUI", "is not installed where COMFYUI_DIR says", "run scripts/setup")
        return
    yield Finding(Verdict.GOOD, "ComfyUI", "is installed")
    found = list(_engine(python, settings))
    yield from found
    if any(finding.verdict is Verdict.BAD for finding in found):
        return
    try:
        workflow = profiles.load(settings)
    except GenerationError as exc:
        yield Finding(Verdict.BAD, "workflow", exc.message, "restore workflows/ from the repository")
        return
    yield Finding(Verdict.GOOD, "workflow", f"{workflow.name}, profile {workflow.profile}")
    if workflow.profile == profiles.FALLBACK_PROFILE and settings.profile == "auto":
        remedy = "layerdiffuse-alpha models fetch, to draw with SDXL"
        yield Finding(Verdict.ODD, "profile", "SDXL's weights are not there, the tiny model draws", remedy)
    files = [_weight(settings, file) for file in workflow.models]
    if all(finding.verdict is Verdict.GOOD for finding in files):
        files.append(_patch(settings, workflow))
    yield from files
    yield from _machine(settings)
    if draws and all(finding.verdict is Verdict.GOOD for finding in files):
        yield _picture(settings, workflow)


def _engine(python: Path, settings: Settings) -> Iterator[Finding]:
    try:
        probe = subprocess.run(  # noqa: S603 -- every part is ours
            [python, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True
        )
        facts = json.loads(probe.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        yield Finding(Verdict.BAD, "PyTorch", f"cannot be imported: {type(exc).__name__}", "run scripts/setup")
        return
    yield Finding(Verdict.GOOD, "PyTorch", facts["torch"])
    for gpu in facts["gpus"]:
        small = gpu["bytes"] < SDXL_MEMORY_BYTES
        remedy = "SDXL at 1024x1024 is meant for 24 GB" if small else ""
        yield Finding(
            Verdict.ODD if small else Verdict.GOOD, "GPU", f"{gpu['name']}, {gpu['bytes'] / 1e9:.0f} GB", remedy
        )
    if facts["gpus"] and not facts["xformers"]:
        yield Finding(Verdict.ODD, "xformers", "is not installed, PyTorch's own attention is used", "run scripts/setup")
    if not facts["gpus"] and has_gpu() and not on_cpu(settings):
        remedy = "install a driver for CUDA 12.8 or newer, or set DEVICE=cpu"
        yield Finding(Verdict.BAD, "GPU", "is there, but PyTorch cannot use it", remedy)
    elif not facts["gpus"]:
        remedy = "fine for the tiny model; SDXL takes minutes for each picture"
        yield Finding(Verdict.ODD, "GPU", "none", remedy)


def _weight(settings: Settings, file: ModelFile) -> Finding:
    path = _place(settings, file)
    remedy = "layerdiffuse-alpha models fetch, or for the tiny model, git checkout models"
    try:
        size_bytes = path.stat().st_size
        head, head_bytes = _head(path)
        tensors = {name: entry for name, entry in head.items() if name != "__metadata__"}
        expected_bytes = head_bytes + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except FileNotFoundError:
        return Finding(Verdict.BAD, str(file), "is missing", remedy)
    except (OSError, ValueError, struct.error, LookupError, AttributeError, TypeError):
        return Finding(Verdict.BAD, str(file), "is not a whole safetensors file", remedy)
    if size_bytes != expected_bytes:
        return Finding(Verdict.BAD, str(file), f"has {size_bytes} bytes, its head says {expected_bytes}", remedy)
    where = "" if path.is_relative_to(settings.models_dir) else f", in {path.parent}"
    return Finding(Verdict.GOOD, str(file), f"{size_bytes / 1e6:,.1f} MB, {len(tensors)} tensors{where}")


def _patch(settings: Settings, workflow: Workflow) -> Finding:
    """Finds whether the attention patch is in force just once; all files of the workflow are whole."""
    heads = (_head(_place(settings, file))[0] for file in workflow.models)
    merged = any(MERGED in (head.get("__metadata__") or {}) for head in heads)
    nodes = workflow.render({}).values()
    applied = any(PATCHING.fullmatch(node["class_type"]) and node["inputs"].get("weight") != 0 for node in nodes)
    if merged and applied:
        remedy = "PROFILE=merged, or a checkpoint without it"
        return Finding(Verdict.BAD, "patch", "is in the checkpoint's weights, and the graph applies it again", remedy)
    if not merged and not applied:
        remedy = "scripts/merge-patch makes a checkpoint that has it; PROFILE=sdxl applies it"
        return Finding(Verdict.BAD, "patch", "is neither in the weights nor applied: pictures come out opaque", remedy)
    return Finding(Verdict.GOOD, "patch", "is in the checkpoint's weights" if merged else "is applied by the graph")


def _place(settings: Settings, file: ModelFile) -> Path:
    return locate.find(file, settings) or settings.models_dir / file.folder / file.name


def _head(path: Path) -> tuple[dict[str, Any], int]:
    """Returns the head of a safetensors file, and where the tensors begin; raises OSError, ValueError, struct.error."""
    with path.open("rb") as opened:
        (head_bytes,) = struct.unpack("<Q", opened.read(8))
        return json.loads(opened.read(min(head_bytes, path.stat().st_size))), 8 + head_bytes


def _machine(settings: Settings) -> Iterator[Finding]:
    folder = next(parent for parent in (settings.data_dir, *settings.data_dir.absolute().parents) if parent.exists())
    free_bytes = shutil.disk_usage(folder).free
    remedy = "" if free_bytes > FREE_BYTES else "make room, or set DATA_DIR to another disk"
    yield Finding(
        Verdict.ODD if remedy else Verdict.GOOD, "disk", f"{free_bytes / 1e9:.1f} GB free for DATA_DIR", remedy
    )
    where = f"{settings.listen_host}:{settings.port}"
    try:
        with socket.create_server((settings.listen_host, settings.port)):
            yield Finding(Verdict.GOOD, "address", f"{where} is free")
    except OSError as exc:
        remedy = "stop what uses it, or set PORT; fine where it is this server"
        yield Finding(Verdict.ODD, "address", f"{where} cannot be used: {exc.strerror}", remedy)
    if not (settings.keys() or settings.allow_without_keys or is_loopback(settings.listen_host)):
        yield Finding(Verdict.BAD, "API_KEYS", f"none, and {where} can be reached by others", "set API_KEYS")


def _picture(settings: Settings, workflow: Workflow) -> Finding:
    comfyui = ComfyProcess(settings)
    try:
        generator = Generator(workflow, comfyui, settings)
        generator.start()
        info = generator.generate({"prompt": "a red apple", "seed": 7}, Deadline(settings.job_timeout_s)).info
    except GenerationError as exc:
        return Finding(Verdict.BAD, "a picture", str(exc), "docs/errors.md; LOG_LEVEL=INFO shows ComfyUI's log")
    finally:
        comfyui.stop()
    fact = f"{info['width']}x{info['height']}, {info['alpha']['transparent']:.0%} transparent"
    return Finding(Verdict.GOOD, "a picture", f"{fact}, in {info['seconds']['total']:.1f} s")
