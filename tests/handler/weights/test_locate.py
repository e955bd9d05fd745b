import json
from pathlib import Path

import pytest

from handler.settings import Settings
from handler.weights import locate
from handler.workflow.workflow import ModelFile

FILE = ModelFile("checkpoints", "small.safetensors")
REVISION = "0123456789abcdef0123456789abcdef01234567"
LIST = f"""
[sdxl]
{"0" * 64} 10 checkpoints/small.safetensors https://huggingface.co/someone/some-model/resolve/{REVISION}/sub/Other.safetensors
"""


@pytest.fixture
def settings(tmp_path):
    """An installation with an empty models folder, two volumes, and a cache of the hub."""
    (tmp_path / "models.txt").write_text(LIST)
    for name in ("models", "volume/checkpoints", "cache"):
        (tmp_path / name).mkdir(parents=True)
    return Settings(
        models_dir=tmp_path / "models",
        weights_dirs=f"{tmp_path / 'nowhere'}:{tmp_path / 'volume'}",
        hf_cache_dir=tmp_path / "cache",
        models_file=tmp_path / "models.txt",
    )


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0123456789")
    return path


def cache(settings):
    snapshot = settings.hf_cache_dir / "models--someone--some-model" / "snapshots" / REVISION
    return write(snapshot / "sub" / "Other.safetensors")


def test_the_models_folder_comes_first(settings, tmp_path):
    """Then the volumes, then the hub's cache, where the file has the name that it has there."""
    assert locate.find(FILE, settings) is None
    found = [cache(settings)]
    assert locate.find(FILE, settings) == found[-1]
    for folder in ("volume", "models"):
        found.append(write(tmp_path / folder / "checkpoints" / FILE.name))
        assert locate.find(FILE, settings) == found[-1]


def test_comfyui_is_told_of_what_is_elsewhere(settings, tmp_path):
    """By a file in its own format, and by links under the workflow's names."""
    place = cache(settings)
    config = locate.write_config(settings, tmp_path / "scratch")
    volume, links = json.loads(config.read_text()).values()
    assert volume == {"checkpoints": "checkpoints", "base_path": str(tmp_path / "volume")}
    assert Path(links["base_path"], links["checkpoints"], FILE.name).resolve() == place


def test_nothing_elsewhere_is_nothing_told(tmp_path):
    """The usual case needs no file."""
    settings = Settings(weights_dirs="", hf_cache_dir=tmp_path / "none")
    assert locate.write_config(settings, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_broken_list_hides_no_volume(settings, tmp_path):
    """models.txt with a fault only means that the cache is not looked at."""
    cache(settings)
    settings.models_file.write_text("nonsense")
    assert locate.cached(settings) == {}
    write(tmp_path / "volume" / "checkpoints" / FILE.name)
    assert locate.find(FILE, settings) is not None


def test_every_file_of_our_list_can_come_from_the_cache():
    """Each first address in manifest.txt is one that the cache's layout is known for."""
    from handler.weights import manifest

    entries = manifest.read(Settings().models_file)
    assert all(locate.HUB_URL.fullmatch(entry.urls[0]) for entry in entries)
