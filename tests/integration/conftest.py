"""The real ComfyUI with the tiny model on the CPU, started once, and the real server, started once.

Tests that stop or kill either of them leave it running, or let the next job start it again.
"""

import copy
import json
import shutil
from pathlib import Path

import pytest
from server import Server

from handler.cli import checks
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.job.generate import Generator
from handler.job.profiles import load, read
from handler.job.runner import Runner
from handler.serverless import make_handler
from handler.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def settings():
    """Opaque pictures are accepted: small ones of few steps often are. test_transparency.py tests the other modes."""
    return Settings(
        profile="tiny",
        device="cpu",
        job_timeout_s=120,
        start_timeout_s=120,
        alpha_check="accept",
    )


@pytest.fixture(scope="session")
def fault_nodes(tmp_path_factory):
    """A copy of the node pack that makes ComfyUI fail as its plan.json says."""
    pack = tmp_path_factory.mktemp("packs") / "fault_nodes"
    shutil.copytree(Path(__file__).parent / "fault_nodes", pack)
    (pack.parent / "packs.yaml").write_text(f"packs:\n  custom_nodes: {pack.parent}\n")
    (pack / "plan.json").write_text("{}")
    return pack


@pytest.fixture
def planned_fault(fault_nodes):
    """Makes the next calls in ComfyUI fail: `planned_fault(sample=["cuda"])`."""

    def write(**plan):
        (fault_nodes / "new.json").write_text(json.dumps(plan))
        (fault_nodes / "new.json").replace(fault_nodes / "plan.json")  # ComfyUI may read it at this moment

    yield write
    write()


@pytest.fixture(scope="session")
def comfyui(settings, fault_nodes):
    config = fault_nodes.parent / "packs.yaml"
    process = ComfyProcess(settings.model_copy(update={"comfyui_args": f"--extra-model-paths-config {config}"}))
    process.client(Deadline(120))
    yield process
    process.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("data"), QUEUE_LIMIT="40") as server:
        yield server


@pytest.fixture
def generator(comfyui, settings):
    return Generator(load(settings), comfyui, settings)


@pytest.fixture
def handle(generator, settings):
    return make_handler(Runner(generator), settings)


@pytest.fixture
def variant(comfyui, settings, tmp_path):
    """Makes the handler of a changed stored workflow, unchecked: `variant(change)` with `change(graph, params)`."""

    def make(change, **more):
        folder = tmp_path / "workflows"
        shutil.copytree(ROOT / "workflows", folder, dirs_exist_ok=True)
        files = [folder / "txt2img_alpha.json", folder / "txt2img_alpha.params.json"]
        contents = [json.loads(file.read_text("utf-8")) for file in files]
        change(*contents)
        for file, content in zip(files, contents, strict=True):
            file.write_text(json.dumps(content), "utf-8")
        changed = settings.model_copy(update={"workflows_dir": folder, **more})
        return make_handler(Runner(Generator(read(changed), comfyui, changed)), changed)

    return make


@pytest.fixture
def with_pack(tmp_path):
    """Adds a node pack to ComfyUI: `with_pack(settings, name, source)` returns settings that load it."""

    def add(settings, name, source):
        folder = tmp_path / "packs" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(source)
        config = tmp_path / "packs.yaml"
        config.write_text(f"packs:\n  custom_nodes: {folder.parent}\n")
        return settings.model_copy(update={"comfyui_args": f"--extra-model-paths-config {config}"})

    return add


@pytest.fixture
def without_probe(monkeypatch):
    """Saves `doctor` the seconds of importing PyTorch; test_doctor.py does it once."""
    monkeypatch.setattr(checks, "PROBE", """print('{"torch": "", "xformers": true, "gpus": []}')""")


@pytest.fixture
def weak_patch(tmp_path):
    """A folder of workflows whose patch is too weak for any transparency."""
    folder = tmp_path / "weak"
    shutil.copytree(ROOT / "workflows", folder)
    file = folder / "txt2img_alpha.json"
    graph = json.loads(file.read_text("utf-8"))
    (patch,) = (node for node in graph.values() if node["class_type"] == "LayeredDiffusionApply")
    patch["inputs"]["weight"] = 0.01
    file.write_text(json.dumps(graph), "utf-8")
    return folder


@pytest.fixture
def small():
    """A request that is done in half a second."""
    return copy.deepcopy({"prompt": "a red apple", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 4})
