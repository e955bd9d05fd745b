"""What benchmarks/gpu.py needs on a machine that has PyTorch, transformers, SciPy and the like, but no network.

A bundle is two archives: ComfyUI's tree, and the packages of the lock files that such a machine lacks. The largest are
left out, because a picture does not need them: compiled kernels for number formats that we do not use, and PyAV,
which ComfyUI imports for videos. Together with the repository, it has less than 64 MiB.
"""

import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = ROOT / ".comfyui" / "app"
LOCKS = ROOT / "requirements" / "comfyui.txt", ROOT / "requirements" / "handler.txt"
PACKAGES = (
    *(
        "torchsde",
        "trampoline",
        "comfy-kitchen",
        "comfy-aimdo",
        "alembic",
        "mako",
        "sqlalchemy",
        "simpleeval",
        "blake3",
    ),
    *("pydantic", "pydantic-core", "pydantic-settings", "python-dotenv", "annotated-types", "isal"),
    *("websocket-client", "tenacity", "nvidia-ml-py", "jinja2", "markupsafe", "typer", "rich"),
    *("jsonschema", "jsonschema-specifications", "referencing"),
    *("rpds-py", "attrs", "httpx", "httpcore", "h11", "anyio", "socksio", "requests", "urllib3", "certifi", "idna"),
    *("charset-normalizer", "typing-extensions", "typing-inspection", "click", "shellingham", "markdown-it-py"),
    *("mdurl", "pygments", "annotated-doc"),
)
PLATFORM = "x86_64-manylinux_2_28"
LEFT_OUT = {"tests", "tests-unit", "__pycache__", "blueprints", ".git", ".github", "bin"}
VIDEO = '''"""Takes the place of PyAV, which is imported for videos."""

import sys
import types


class Kind(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Kind(name, (Exception,), {})


class Absent(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Kind(name, (Exception,), {})


for name in ("", ".container", ".subtitles", ".subtitles.stream", ".video", ".video.reformatter", ".codec", ".error"):
    sys.modules[f"av{name}"] = Absent(f"av{name}")
'''


def write(folder: Path, python: str) -> None:
    """Writes the bundle for a version of Python, such as 3.12."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        site, locked = Path(scratch) / "site", Path(scratch) / "locked.txt"
        locked.write_text("".join(entry for lock in LOCKS for entry in entries(lock.read_text("utf-8"))), "utf-8")
        command = [ROOT / ".tools" / "bin" / "uv", "pip", "install", "--quiet", "--target", site, "--no-deps"]
        wanted = ["--python-version", python, "--python-platform", PLATFORM, "--only-binary", ":all:"]
        subprocess.run([*command, *wanted, "--requirement", locked], check=True)
        for library in (site / "comfy_kitchen").rglob("*.so"):
            library.unlink()
        (site / "av.py").write_text(VIDEO, "utf-8")
        pack(site, folder / "site.tar.xz")
    pack(COMFYUI, folder / "comfyui.tar.xz")
    size_bytes = sum(path.stat().st_size for path in folder.glob("*.tar.xz"))
    print(f"{folder}: {size_bytes / 2**20:.1f} MiB")


def entries(lock: str):
    """Yields the entries of PACKAGES in a lock file, with their hashes."""
    for entry in re.split(r"\n(?=[a-z])", lock):
        if (name := re.match(r"[\w.-]+(?===)", entry)) and name[0].lower() in PACKAGES:
            yield entry + "\n"


def pack(folder: Path, archive: Path) -> None:
    def kept(member):
        return None if LEFT_OUT & set(Path(member.name).parts) else member

    with tarfile.open(archive, "w:xz", preset=2) as tar:
        tar.add(folder, arcname=".", filter=kept)


def unpack(bundle: Path) -> dict[str, str]:
    """Returns the environment in which the benchmark and ComfyUI run with this Python's own PyTorch."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-"))
    for name, target in (("site", folder / "site"), ("comfyui", folder / "app")):
        with tarfile.open(bundle / f"{name}.tar.xz") as tar:
            tar.extractall(target, filter="data")
    python = folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    packs = folder / "data" / "custom_nodes"
    packs.mkdir(parents=True)
    for pack_name in ("layerdiffuse_alpha", "tiny_sdxl"):
        (packs / pack_name).symlink_to(ROOT / "custom_nodes" / pack_name)
    paths = [str(folder / "site"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "COMFYUI_DIR": str(folder)}
