"""Imports the real ComfyUI, on the CPU, with our packs and the tiny weights."""

import importlib.machinery
import importlib.util
import sys

import comfyui_library
import pytest

MODELS = comfyui_library.ROOT / "models"
CHECKPOINT = MODELS / "checkpoints" / "tiny_sdxl.safetensors"
PATCH = MODELS / "layer_model" / "tiny_transparent_attn.safetensors"


def pytest_configure() -> None:
    comfyui_library.prepare()


@pytest.fixture
def layer_model(tmp_path):
    """A `layer_model` folder of the test, which ComfyUI searches first."""
    import folder_paths

    folders, _ = folder_paths.folder_names_and_paths["layer_model"]
    folders.insert(0, str(tmp_path))
    yield tmp_path
    folders.remove(str(tmp_path))


@pytest.fixture(scope="session")
def checkpoint():
    """(model, clip, vae) of the tiny checkpoint, loaded by ComfyUI's own loader node."""
    import nodes
    import tiny_sdxl  # noqa: F401 -- registers the family

    return nodes.CheckpointLoaderSimple().load_checkpoint("tiny_sdxl.safetensors")


@pytest.fixture
def model(checkpoint):
    return checkpoint[0].clone()


@pytest.fixture(scope="session")
def script():
    """tools/merge_patch.py as a module."""
    path = comfyui_library.ROOT / "tools" / "merge_patch.py"
    loader = importlib.machinery.SourceFileLoader("merge_patch", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


@pytest.fixture
def merge(script, monkeypatch, tmp_path):
    """Runs the script's main in this process; returns its exit status and the output's path."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(checkpoint=CHECKPOINT, patch=PATCH, output="merged.safetensors", weight=1.0):
        path = tmp_path / output
        arguments = ["--checkpoint", checkpoint, "--patch", patch, "--output", path, "--weight", weight]
        return script.main(list(map(str, arguments))), path

    return run
