"""Modules that every start imports are compiled once, even if PYTHONDONTWRITEBYTECODE is set."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from installer import bytecode, environment

MakeWheel = Callable[..., Path]


@pytest.fixture
def folder(root: Path, make_wheel: MakeWheel, tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new environment with one package, with PYTHONDONTWRITEBYTECODE set."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    demo = environment.Environment(tmp_path / "venv", (make_wheel("demo"),))
    environment.ensure(root / ".tools/bin/uv", demo, say=lambda _: None)
    return demo.folder


def compile_demo(folder: Path, code: str = "import demo") -> str:
    return bytecode.compile_imports(folder, [folder / environment.STAMP], ["-c", code], folder)


def compiled(folder: Path) -> list[Path]:
    return list(environment.site_packages(folder).glob("__pycache__/demo.*.pyc"))


def test_imported_modules_are_compiled_once(folder: Path) -> None:
    """The second run starts nothing; a run after another install compiles again."""
    assert compile_demo(folder) == "compiled"
    assert len(compiled(folder)) == 1
    assert compile_demo(folder, "raise SystemExit(1)") == "ok"
    os.utime(folder / bytecode.MARKER, (0, 0))  # older than the environment's own stamp
    assert compile_demo(folder) == "compiled"


def test_uv_s_cache_is_not_written_to(folder: Path) -> None:
    """uv links an environment's files from its cache; the bytecode is a file of the environment alone."""
    compile_demo(folder)
    assert [path.stat().st_nlink for path in compiled(folder)] == [1]
    assert list(Path(os.environ["UV_CACHE_DIR"]).rglob("*.pyc")) == []


def test_a_changed_source_is_compiled_again(folder: Path) -> None:
    """Bytecode of an older source is not used."""
    compile_demo(folder)
    source = environment.site_packages(folder) / "demo.py"
    source.unlink()
    source.write_text("VERSION = 'changed'\n")
    command = [folder / "bin/python", "-c", "import demo; print(demo.VERSION)"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "changed\n"


def test_a_start_that_fails_is_named_and_tried_again(folder: Path) -> None:
    """Setup continues without bytecode, says why, and the next setup compiles."""
    failed = compile_demo(folder, "import sys; sys.exit('no such module')")
    assert failed == "not finished, exit status 1: no such module"
    assert compile_demo(folder) == "compiled"


@pytest.mark.parametrize("package", ["runpod", "fastapi", "boto3"])
def test_the_handler_s_environment_is_compiled(root: Path, package: str) -> None:
    """After a setup, this repository's own environment has the bytecode of what the handler imports."""
    assert list(environment.site_packages(root / ".venv").glob(f"{package}/__pycache__/__init__.*.pyc"))


@pytest.mark.parametrize("folder_name", [".comfyui/app/comfy", ".comfyui/venv/lib64/python3.11/site-packages/torch"])
def test_comfyui_is_compiled(root: Path, folder_name: str) -> None:
    """After a setup, ComfyUI's environment has the bytecode of what ComfyUI imports."""
    assert list((root / folder_name / "__pycache__").glob("*.pyc"))
