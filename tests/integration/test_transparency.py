"""An opaque picture is never COMPLETED: the graph is checked at the start, and each picture's alpha after drawing."""

import asyncio
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from handler.errors import NotTransparent
from handler.job import seeds
from handler.job.generate import Generator
from handler.job.preparation import prepare
from handler.job.profiles import load
from handler.job.runner import Runner
from handler.serverless import make_handler
from handler.settings import Settings

ROOT = Path(__file__).parents[2]
# With few steps, the tiny model's small pictures are often opaque although the patch is applied.
APPLE = {"prompt": "a red apple", "width": 64, "height": 64, "num_inference_steps": 4}
SEEDS = 60
OPAQUE = r"not_transparent: picture is opaque: alpha is under 0\.5 in 0\.\d\d% of its pixels, its mean is [01]\.\d\d"


def job(handle, request):
    return asyncio.run(handle({"id": "job-1", "input": request}))


@pytest.fixture
def checking(comfyui, settings):
    """Makes the handler of the stored workflow with another ALPHA_CHECK."""

    def make(mode):
        changed = settings.model_copy(update={"alpha_check": mode})
        return make_handler(Runner(Generator(load(changed), comfyui, changed)), changed)

    return make


@pytest.fixture(scope="module")
def verdicts(comfyui, settings):
    """The verdict by seed, until an opaque picture was followed by an opaque one and one by a transparent one."""
    handle = make_handler(Runner(Generator(load(settings), comfyui, settings)), settings)
    found = []
    for seed in range(SEEDS):
        found.append(json.loads(job(handle, APPLE | {"seed": seed})["info"])["alpha_check"]["passed"])
        if {(False, True), (False, False)} <= set(itertools.pairwise(found)):
            return found
    raise AssertionError(f"{SEEDS} seeds are all alike: {found}")


@pytest.fixture
def opaque_seed(verdicts):
    """A seed whose picture is opaque, and the next one's is not."""
    return list(itertools.pairwise(verdicts)).index((False, True))


@pytest.fixture
def opaque_pair(verdicts):
    """A seed whose picture is opaque, and so is the next one's."""
    return list(itertools.pairwise(verdicts)).index((False, False))


@pytest.fixture
def without_seed(checking, monkeypatch):
    """Runs a job whose request has no seed with ALPHA_CHECK=retry; the random seed is `seed`."""

    def run(seed):
        monkeypatch.setattr(seeds.secrets, "randbelow", lambda limit: seed)
        return job(checking("retry"), APPLE)

    return run


@pytest.fixture
def without_patch(tmp_path):
    """A folder of workflows whose graph has the patch at weight 0."""
    folder = tmp_path / "opaque"
    shutil.copytree(ROOT / "workflows", folder)
    path = folder / "txt2img_alpha.json"
    graph = json.loads(path.read_text("utf-8"))
    graph["2"]["inputs"]["weight"] = 0.0
    path.write_text(json.dumps(graph), "utf-8")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["worker", "--test_input", json.dumps({"input": {"prompt": "a red apple"}})],
        ["serve"],
        ["generate", "-o", "/tmp/never.png"],
        ["doctor", "--quick"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.usefixtures("without_probe")
def test_a_graph_that_cannot_be_transparent_is_refused_at_the_start(without_patch, tmp_path, command_line, command):
    """Worker, server, command line and doctor name the node and what to do, before ComfyUI is started."""
    done = command_line(*command, WORKFLOWS_DIR=str(without_patch), PORT="0", DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "Transparency Patch" in said
    assert "its weight is 0 and the checkpoint does not have the patch in its weights" in said
    assert "set its weight to 1" in said
    assert "ComfyUI starting" not in said


@pytest.mark.parametrize(("prompt", "seed"), [("an icon of a purple house", 64), ("black coloured flower", 159)])
def test_a_picture_without_the_patch_is_refused(variant, prompt, seed):
    """Drawn without the check of the graph, it has a background, and fails the check of its alpha."""

    def change(graph, params):
        graph["2"]["inputs"]["weight"] = 0.0

    error = job(variant(change, alpha_check="fail"), {"prompt": prompt, "seed": seed})["error"]
    assert re.fullmatch(OPAQUE, error)


def test_an_opaque_picture_fails_by_default(checking, opaque_seed):
    """If a picture is opaque although the patch is applied, the job fails with the figures."""
    default = Settings.model_fields["alpha_check"].default
    error = job(checking(default), APPLE | {"seed": opaque_seed})["error"]
    assert re.fullmatch(OPAQUE, error)


def test_retry_draws_the_next_seed(without_seed, opaque_seed):
    """Without a seed in the request, the next seed is drawn once; the reply reports both."""
    reply = without_seed(opaque_seed)
    info = json.loads(reply["info"])
    assert reply["seed"] == info["seed"] == opaque_seed + 1
    assert info["alpha_check"]["passed"] is True
    assert info["alpha_check"]["refused"]["seed"] == opaque_seed
    assert info["alpha_check"]["refused"]["reason"].startswith("picture is opaque")


def test_retry_fails_after_two_pictures(without_seed, opaque_pair):
    """If the second picture is refused too, the job fails, and the error names the first one's seed."""
    error = without_seed(opaque_pair)["error"]
    assert re.fullmatch(f"{OPAQUE}; so was the picture before, with seed {opaque_pair}", error)


def test_retry_keeps_the_callers_seed(checking, opaque_seed):
    """If the request has a seed, no other one is tried: the job fails."""
    assert re.fullmatch(OPAQUE, job(checking("retry"), APPLE | {"seed": opaque_seed})["error"])


def test_accept_reports_what_was_wrong(checking, opaque_seed):
    """The job succeeds; info says that the picture failed the check, and why."""
    reply = job(checking("accept"), APPLE | {"seed": opaque_seed})
    verdict = json.loads(reply["info"])["alpha_check"]
    assert verdict["passed"] is False
    assert verdict["reason"].startswith("picture is opaque")


def test_accept_does_not_make_an_opaque_worker_ready(weak_patch, comfyui, settings):
    """ALPHA_CHECK=accept is about jobs: the full warm-up's picture must be transparent."""
    changed = settings.model_copy(update={"workflows_dir": weak_patch, "warm_up": "full"})
    assert changed.alpha_check == "accept"
    with pytest.raises(NotTransparent):
        prepare(Generator(load(changed), comfyui, changed))


@pytest.mark.parametrize("mode", ["fail", "retry", "accept"])
def test_a_transparent_picture_passes_in_every_mode(checking, verdicts, mode):
    """What passes is reported as such, and drawn once."""
    info = json.loads(job(checking(mode), APPLE | {"seed": verdicts.index(True)})["info"])
    assert info["alpha_check"] == {"passed": True}
