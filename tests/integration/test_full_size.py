"""SDXL's and LayerDiffuse's real shapes, names and files, with random weights, on the CPU: `pytest -m full`."""

import asyncio
import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from handler.comfyui.process import ComfyProcess
from handler.job.generate import Generator
from handler.job.png import check_png
from handler.job.profiles import read
from handler.job.runner import Runner
from handler.serverless import make_handler
from handler.settings import Settings

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
SIZE = 256
REQUEST = {"prompt": "a red apple", "seed": 7, "width": SIZE, "height": SIZE, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A models folder with files of the real names and shapes, 7.9 GB; removed after the tests."""
    folder = tmp_path_factory.mktemp("models")
    python = ROOT / ".comfyui" / "venv" / "bin" / "python"
    command = [python, ROOT / "tools" / "make_random_models.py", "--models", folder]
    subprocess.run(command, check=True, stdout=sys.stdout.fileno() if sys.stdout.isatty() else subprocess.DEVNULL)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def comfyui(models):
    # How transparent the pictures of random weights are is a matter of chance.
    settings = Settings(profile="sdxl", device="cpu", models_dir=models, job_timeout_s=1800, alpha_check="accept")
    process = ComfyProcess(settings)
    yield process, settings
    process.stop()


def run(comfyui, folder, patch_weight):
    """Runs the stored workflow with another patch weight and smaller pictures than callers may request."""
    process, settings = comfyui
    shutil.copytree(ROOT / "workflows", folder)
    graph_file, params_file = folder / "txt2img_alpha.json", folder / "txt2img_alpha.params.json"
    graph, params = (json.loads(file.read_text("utf-8")) for file in (graph_file, params_file))
    graph["2"]["inputs"]["weight"] = patch_weight
    for name in ("width", "height"):
        params["request"][name]["schema"]["minimum"] = SIZE
    graph_file.write_text(json.dumps(graph), "utf-8")
    params_file.write_text(json.dumps(params), "utf-8")
    changed = settings.model_copy(update={"workflows_dir": folder})
    handle = make_handler(Runner(Generator(read(changed), process, changed)), changed)
    return asyncio.run(handle({"id": "full", "input": REQUEST}))


def test_the_stored_workflow_runs_at_full_size(comfyui, tmp_path):
    """All 560 keys of the patch are applied, the full decoder runs, and the PNG differs from that without the patch."""
    reply = run(comfyui, tmp_path / "patched", 1.0)
    assert "error" not in reply, reply
    png = base64.b64decode(reply["image_base64"])
    check_png(png, SIZE, SIZE)
    info = json.loads(reply["info"])
    assert (info["profile"], info["checkpoint"]) == ("sdxl", "sd_xl_base_1.0.safetensors")
    unpatched = run(comfyui, tmp_path / "unpatched", 0.0)
    assert base64.b64decode(unpatched["image_base64"]) != png
    child = psutil.Process(comfyui[0].pid)
    print(json.dumps(info["seconds"]), f"resident: {child.memory_info().rss / 1e9:.1f} GB")
