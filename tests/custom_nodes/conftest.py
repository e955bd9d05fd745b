"""Imports the real ComfyUI, on the CPU, with our packs and the tiny weights."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pytest_configure() -> None:
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(ROOT / ".comfyui" / "data")]
    sys.path[:0] = [str(ROOT / ".comfyui" / "app"), str(ROOT / "custom_nodes")]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    sys.argv = arguments


@pytest.fixture
def layer_model(tmp_path):
    """An own `layer_model` folder, which ComfyUI looks into first."""
    import folder_paths

    folders, _ = folder_paths.folder_names_and_paths["layer_model"]
    folders.insert(0, str(tmp_path))
    yield tmp_path
    folders.remove(str(tmp_path))


@pytest.fixture(scope="session")
def checkpoint():
    """(model, clip, vae) of the tiny checkpoint, by ComfyUI's own loader node."""
    import nodes
    import tiny_sdxl  # noqa: F401 -- registers the family

    return nodes.CheckpointLoaderSimple().load_checkpoint("tiny_sdxl.safetensors")


@pytest.fixture
def model(checkpoint):
    return checkpoint[0].clone()
