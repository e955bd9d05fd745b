"""extra_model_paths.yaml tells ComfyUI about weight files outside the models folder."""

import json
from pathlib import Path

from handler.comfyui import model_paths
from handler.settings import Settings

REVISION = "0123456789abcdef0123456789abcdef01234567"
URL = f"https://huggingface.co/someone/some-model/resolve/{REVISION}/sub/Other.safetensors"


def test_volumes_and_the_cache_are_listed(tmp_path):
    """It lists a volume itself, and files of the cache as links with the names of models.txt."""
    (tmp_path / "models.txt").write_text(f"[sdxl]\n{'0' * 64} 10 checkpoints/small.safetensors {URL}\n")
    (tmp_path / "volume" / "checkpoints").mkdir(parents=True)
    cached = tmp_path / "cache" / "models--someone--some-model" / "snapshots" / REVISION / "sub" / "Other.safetensors"
    cached.parent.mkdir(parents=True)
    cached.touch()
    settings = Settings(
        weights_dirs=str(tmp_path / "volume"), hf_cache_dir=tmp_path / "cache", models_file=tmp_path / "models.txt"
    )
    config = model_paths.write(settings, tmp_path / "scratch")
    volume, links = json.loads(config.read_text()).values()
    assert volume == {"checkpoints": "checkpoints", "base_path": str(tmp_path / "volume")}
    assert Path(links["base_path"], links["checkpoints"], "small.safetensors").resolve() == cached


def test_without_a_volume_or_a_cache_there_is_no_file(tmp_path):
    """There is no file if all weights are in the models folder."""
    settings = Settings(weights_dirs="", hf_cache_dir=tmp_path / "none")
    assert model_paths.write(settings, tmp_path) is None
    assert list(tmp_path.iterdir()) == []
