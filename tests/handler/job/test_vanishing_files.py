"""Files that vanish or are damaged while a job waits or runs; ComfyUI is a child process that fails as planned."""

import shutil
from pathlib import Path

import fake_comfyui
import pytest

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import InvalidInput, ModelMissing
from handler.job import profiles
from handler.job.generate import Generator
from handler.settings import Settings

ROOT = Path(__file__).parents[3]
CHECKPOINT = "checkpoints/tiny_sdxl.safetensors"
FAILURES = ["FileNotFoundError: no such file", "SafetensorError: incomplete", "die", "die before"]


def cut_short(file):
    with file.open("r+b") as opened:
        opened.truncate(1000)


def overwrite(file):
    file.write_bytes(b"\xff" * file.stat().st_size)


DAMAGES = {
    "deleted": (Path.unlink, "missing or unreadable"),
    "cut short": (cut_short, "not a complete safetensors file"),
    "overwritten": (overwrite, "not a complete safetensors file"),
}


@pytest.fixture
def models(tmp_path):
    return shutil.copytree(ROOT / "models", tmp_path / "models")


@pytest.fixture
def make(tmp_path, models):
    """Makes a generator on a fake ComfyUI with a plan."""
    made = []

    def make(**plan):
        fake_comfyui.install(tmp_path / "comfyui", **plan)
        settings = Settings(profile="tiny", device="cpu", comfyui_dir=tmp_path / "comfyui", models_dir=models)
        made.append(ComfyProcess(settings))
        return Generator(profiles.load(settings), made[-1], settings)

    yield make
    for comfyui in made:
        comfyui.stop()


def request(generator, prompt="x"):
    return generator.parse({"prompt": prompt, "seed": 1, "width": 64, "height": 64})


@pytest.mark.parametrize(
    ("damage", "failure"),
    [*(("deleted", failure) for failure in FAILURES), ("cut short", FAILURES[1]), ("overwritten", FAILURES[1])],
)
def test_a_weight_file_that_vanishes_is_the_reason(make, models, damage, failure):
    """Whatever ComfyUI reports, the job fails at once with the file's name, and works when the file is back."""
    generator = make(graphs=[failure])
    file, kept = models / CHECKPOINT, (models / CHECKPOINT).read_bytes()
    change, reason = DAMAGES[damage]
    generator.start()
    check = generator._check_machine

    def check_then_change(workflow):
        check(workflow)
        change(file)

    generator._check_machine = check_then_change
    with pytest.raises(ModelMissing) as raised:
        generator.generate(request(generator), Deadline(30))
    assert raised.value.message.startswith(f"models/{CHECKPOINT} {reason}")
    assert raised.value.__cause__ is not None
    generator._check_machine = check
    file.write_bytes(kept)
    assert generator.generate(request(generator), Deadline(30)).info["attempts"] == 1


def test_an_embedding_that_vanishes_in_the_queue_fails_the_job(make, models):
    """ComfyUI would ignore it, and draw something else than was asked for."""
    generator = make()
    embedding = models / "embeddings" / "style.pt"
    embedding.parent.mkdir(exist_ok=True)
    embedding.write_bytes(b"x")
    queued = request(generator, "an apple, embedding:style")
    embedding.unlink()
    with pytest.raises(InvalidInput, match='names the embedding "style", which does not exist'):
        generator.generate(queued, Deadline(30))
