"""The real ComfyUI, started once for the suite, with the tiny model on the CPU."""

import copy
import json
import shutil
from pathlib import Path

import pytest

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.job.generate import Generator
from handler.job.profiles import load
from handler.job.runner import Runner
from handler.serverless import make_handler
from handler.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def settings():
    return Settings(profile="tiny", device="cpu", job_timeout_s=120, start_timeout_s=120)


@pytest.fixture(scope="session")
def comfyui(settings):
    process = ComfyProcess(settings)
    process.client(Deadline(120))
    yield process
    process.stop()


@pytest.fixture
def generator(comfyui, settings):
    return Generator(load(settings), comfyui, settings)


@pytest.fixture
def handle(generator, settings):
    return make_handler(Runner(generator), settings)


@pytest.fixture
def variant(comfyui, settings, tmp_path):
    """Makes the handler of a changed stored workflow: `variant(change)` with `change(graph, params)`."""

    def make(change, **more):
        folder = tmp_path / "workflows"
        shutil.copytree(ROOT / "workflows", folder, dirs_exist_ok=True)
        files = [folder / "txt2img_alpha.json", folder / "txt2img_alpha.params.json"]
        contents = [json.loads(file.read_text("utf-8")) for file in files]
        change(*contents)
        for file, content in zip(files, contents, strict=True):
            file.write_text(json.dumps(content), "utf-8")
        changed = settings.model_copy(update={"workflows_dir": folder, **more})
        return make_handler(Runner(Generator(load(changed), comfyui, changed)), changed)

    return make


@pytest.fixture
def small():
    """A request that is done in half a second."""
    return copy.deepcopy({"prompt": "a red apple", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 4})
