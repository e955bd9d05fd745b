"""Weight files that are deleted or damaged under a running worker, with the real ComfyUI.

tests/handler/job/test_vanishing_files.py has more cases, with a ComfyUI that fails as planned.
"""

import shutil
from pathlib import Path

import pytest
from server import ROOT

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import ModelMissing
from handler.job import profiles
from handler.job.generate import Generator
from handler.settings import Settings

pytestmark = pytest.mark.soak


def cut_in_half(file):
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def overwrite(file):
    file.write_bytes(b"\xff" * file.stat().st_size)


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("checkpoints/tiny_sdxl.safetensors", Path.unlink),
        ("checkpoints/tiny_sdxl.safetensors", cut_in_half),
        ("layer_model/tiny_transparent_attn.safetensors", Path.unlink),
        ("layer_model/tiny_transparent_decoder.safetensors", overwrite),
    ],
)
def test_the_file_is_named_until_it_is_back(small, tmp_path, path, change):
    """Changed after the job's own check and before ComfyUI reads it; two other jobs follow; then it is put back."""
    models = shutil.copytree(ROOT / "models", tmp_path / "models")
    settings = Settings(profile="tiny", device="cpu", alpha_check="accept", models_dir=models)

    def draw(seed):
        return generator.generate(generator.parse(small | {"seed": seed}), Deadline(120)).info["attempts"]

    with ComfyProcess(settings) as comfyui:
        generator = Generator(profiles.load(settings), comfyui, settings)
        generator.start()
        check = generator._check_machine
        generator._check_machine = lambda workflow: (check(workflow), change(models / path))
        with pytest.raises(ModelMissing, match=path):
            draw(1)
        generator._check_machine = check
        for seed in (2, 3):
            with pytest.raises(ModelMissing, match=path):
                draw(seed)
        shutil.copy2(ROOT / "models" / path, models / path)
        assert draw(4) == 1
        assert comfyui.restarts() == 0
