import pytest

from handler.comfyui import model_paths
from handler.settings import Settings
from handler.weights import locate
from handler.weights.locate import Found
from handler.workflow.workflow import ModelFile

FILE = ModelFile("checkpoints", "small.safetensors")
REVISION = "0123456789abcdef0123456789abcdef01234567"
LIST = f"""
[sdxl]
{"0" * 64} 10 checkpoints/small.safetensors https://huggingface.co/someone/some-model/resolve/{REVISION}/sub/Other.safetensors
"""


@pytest.fixture
def settings(tmp_path):
    """An installation with an empty models folder, a missing volume, an empty one, and an empty cache of the hub."""
    (tmp_path / "models.txt").write_text(LIST)
    for name in ("models", "volume", "cache"):
        (tmp_path / name).mkdir()
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


def write_to_cache(settings):
    snapshot = settings.hf_cache_dir / "models--someone--some-model" / "snapshots" / REVISION
    return write(snapshot / "sub" / "Other.safetensors")


def test_the_models_folder_comes_first(settings, tmp_path):
    """The models folder comes first, then the volumes, then the hub's cache, under the hub's file name."""
    assert locate.find(FILE, settings) is None
    in_cache = write_to_cache(settings)
    assert locate.find(FILE, settings) == Found(in_cache, settings.hf_cache_dir)
    for folder in ("volume", "models"):
        path = write(tmp_path / folder / "checkpoints" / FILE.name)
        assert locate.find(FILE, settings) == Found(path, tmp_path / folder)


def test_another_revision_with_the_same_bytes_is_found(settings):
    """RunPod's cache may have a newer revision; the file's hash is its name in blobs/."""
    repository = settings.hf_cache_dir / "models--someone--some-model"
    write(repository / "blobs" / ("1" * 64))
    assert locate.find(FILE, settings) is None
    blob = write(repository / "blobs" / ("0" * 64))
    assert locate.find(FILE, settings) == Found(blob, settings.hf_cache_dir)
    in_cache = write_to_cache(settings)
    assert locate.find(FILE, settings) == Found(in_cache, settings.hf_cache_dir)


def test_a_faulty_list_does_not_hide_a_volume(settings, tmp_path):
    """If models.txt has a fault, only the cache is not searched."""
    write_to_cache(settings)
    settings.models_file.write_text("nonsense")
    assert locate.cached(settings) == {}
    write(tmp_path / "volume" / "checkpoints" / FILE.name)
    assert locate.find(FILE, settings) is not None


def test_a_folder_that_may_not_be_entered_is_skipped(settings, tmp_path, monkeypatch):
    """pathlib raises PermissionError for it."""
    volume = tmp_path / "volume"
    path = write(tmp_path / "models" / "checkpoints" / FILE.name)
    stat = type(volume).stat

    def refuse(self, **options):
        if self.is_relative_to(volume):
            raise PermissionError(13, "Permission denied")
        return stat(self, **options)

    monkeypatch.setattr(type(volume), "stat", refuse)
    assert locate.volumes(settings) == []
    assert locate.find(FILE, settings) == Found(path, tmp_path / "models")


@pytest.mark.parametrize("unreadable", ["volume", "volume/checkpoints", "volume/checkpoints/small.safetensors"])
@pytest.mark.parametrize("mode", [0o000, 0o200, 0o400])
def test_what_cannot_be_read_is_missing_and_named(as_another_user, unreadable, mode, caplog):
    """A volume, folder or file that this user may not read or enter is a warning with its path, once."""
    folder, become = as_another_user
    write(folder / "volume" / "checkpoints" / FILE.name)
    (folder / unreadable).chmod(mode)
    become()
    settings = Settings(
        models_dir=folder / "models", weights_dirs=str(folder / "volume"), hf_cache_dir=folder / "cache"
    )
    found = locate.find(FILE, settings), locate.find(FILE, settings)
    model_paths.write(settings, folder)
    if (folder / unreadable).name == FILE.name and mode == 0o400:
        assert found[0] is not None
    else:
        assert found == (None, None)
        (record,) = [record for record in caplog.records if record.message == "weights cannot be read"]
        assert str(folder / "volume") in record.path
        assert record.reason == "Permission denied"
