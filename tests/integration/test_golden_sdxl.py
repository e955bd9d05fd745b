"""scripts/golden --profile sdxl, with the tiny model's files under SDXL's names.

ComfyUI is a child that speaks its protocol.
"""

import importlib.util
import json
import sys
from pathlib import Path

import fake_comfyui
import golden_pictures as golden
import pytest

ROOT = Path(__file__).parents[2]
NAMES = {
    "checkpoints/tiny_sdxl.safetensors": "checkpoints/sd_xl_base_1.0.safetensors",
    "layer_model/tiny_transparent_attn.safetensors": "layer_model/layer_xl_transparent_attn.safetensors",
    "layer_model/tiny_transparent_decoder.safetensors": "layer_model/vae_transparent_decoder.safetensors",
}


@pytest.fixture
def models(tmp_path):
    """A models folder that looks like SDXL's."""
    for own, name in NAMES.items():
        link = tmp_path / "models" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(ROOT / "models" / own)
    return tmp_path / "models"


@pytest.fixture
def case(tmp_path, monkeypatch):
    """The only golden picture: 64x64 for the tiny model, so 512x512 for SDXL."""
    request = {"prompt": "a red apple", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 4}
    file = tmp_path / "golden" / "apple" / "request.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(request), "utf-8")
    monkeypatch.setattr(golden, "FOLDER", tmp_path / "golden")
    (case,) = golden.cases()
    return case


@pytest.fixture
def program(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("golden_program", ROOT / "tools" / "golden.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "golden_program", module)
    spec.loader.exec_module(module)
    return module


def test_sdxls_pictures_are_stored_next_to_the_tiny_models(program, case, models, tmp_path, monkeypatch):
    """`--update` stores expected.sdxl.png in SDXL's size, and leaves expected.png alone."""
    monkeypatch.setenv("MODELS_DIR", str(models))
    monkeypatch.setenv("DEVICE", "cpu")
    fake_comfyui.install(tmp_path / "comfyui")
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path / "comfyui"))
    report = tmp_path / "report.html"
    monkeypatch.setattr(sys, "argv", ["golden", "--profile", "sdxl", "--update", "--report", str(report)])
    assert program.main() == 0
    assert golden.pixels(case.expected("sdxl").read_bytes()).shape == (512, 512, 4)
    assert not case.expected("tiny").exists()
    assert "profile sdxl" in report.read_text("utf-8")
