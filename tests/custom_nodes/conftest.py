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


@pytest.fixture
def unloaded(monkeypatch):
    """Leaves no model loaded, so that no test finds one that another test has patched; before `monkeypatch` ends."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    yield
    comfy.model_management.unload_all_models()


@pytest.fixture
def measured(monkeypatch):
    """The measurements that the check of a patch took, in order."""
    from layerdiffuse_alpha import proof

    found = []
    real = proof.measure

    def measure(*arguments):
        found.append(real(*arguments))
        return found[-1]

    monkeypatch.setattr(proof, "measure", measure)
    return found


@pytest.fixture
def compared(monkeypatch):
    """The keys whose modules the check of a patch compares, in order."""
    from layerdiffuse_alpha import proof

    keys = []
    real = proof.Proof._made_of
    monkeypatch.setattr(proof.Proof, "_made_of", lambda self, key, *more: keys.append(key) or real(self, key, *more))
    return keys


@pytest.fixture(scope="session")
def conds(checkpoint):
    """(positive, negative) conditioning."""
    import nodes as comfy_nodes

    return [comfy_nodes.CLIPTextEncode().encode(checkpoint[1], text)[0] for text in ("a red apple", "bad, ugly")]


@pytest.fixture
def sample(conds):
    """Samples with a model through ComfyUI's own KSampler and returns the latents."""
    import nodes as comfy_nodes
    import torch

    def run(model, *others, steps=1, batch=1):
        latent = {"samples": torch.zeros(batch, 4, 8, 8)}
        return comfy_nodes.common_ksampler(model, 7, steps, 5.0, "euler", "normal", *(others or conds), latent)[0]

    return run
