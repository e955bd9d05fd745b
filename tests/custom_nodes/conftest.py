"""Imports the real ComfyUI, on the CPU, with our packs and the tiny weights."""

import comfyui_library
import pytest


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
