import json
import struct

import pytest

from handler.settings import WeightSettings
from handler.weights.embeddings import fault, find
from handler.workflow.workflow import ModelFile

CHECKPOINT = ModelFile("checkpoints", "model.safetensors")
WIDTHS = {
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": [8, 768],
    "conditioner.embedders.1.model.token_embedding.weight": [8, 1280],
}


def write(path, shapes):
    """Writes a safetensors file of fp16 zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(end))
    return path


@pytest.fixture
def settings(tmp_path):
    volume = tmp_path / "volume"
    volume.mkdir()
    settings = WeightSettings(models_dir=tmp_path / "models", weights_dirs=str(volume))
    write(settings.models_dir / "checkpoints" / CHECKPOINT.name, WIDTHS)
    (settings.models_dir / "embeddings").mkdir()
    return settings


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.safetensors", "a"),
        ("a.safetensors", "a.safetensors"),
        ("a.pt", "a"),
        ("a.bin", "a"),
        ("a.safetensors", "a,"),
        ("a.safetensors", ",a,,"),
        ("a,.safetensors", "a,"),
        ("sub/deep/a.safetensors", "a"),
        ("sub/deep/a.safetensors", "deep/a"),
    ],
)
def test_an_embedding_is_found_as_comfyui_finds_it(settings, file, name):
    """With its suffix or without, with commas around it, in a subfolder; in the models folder or on a volume."""
    for top in (settings.models_dir, next(iter(settings.models_dir.parent.glob("volume")))):
        path = top / "embeddings" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert find(name, settings) == path
        path.unlink()
    assert find(name, settings) is None


@pytest.mark.parametrize(
    "name", ["../checkpoints/model", "{models}/checkpoints/model", ".", "..", "", "a\0b", "x" * 4000, "/", "sub"]
)
def test_a_name_does_not_leave_the_folder(settings, name):
    """No other file is found, whatever the name."""
    (settings.models_dir / "embeddings" / "sub").mkdir()
    write(settings.models_dir / "embeddings.safetensors", {})
    assert find(name.format(models=settings.models_dir), settings) is None


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"clip_l": [4, 768], "clip_g": [4, 1280]}, None),
        ({"clip_g": [1280], "clip_l": [768]}, None),
        ({"emb_params": [4, 768]}, "has shape [4, 768], expected width 768 (clip_l) and 1280 (clip_g)"),
        ({"clip_l": [4, 768], "clip_g": [2, 768]}, "has shape [2, 768], expected width 768 (clip_l) and 1280 (clip_g)"),
        ({"a": [1, 5], "b": [1, 6]}, None),
    ],
)
def test_an_embedding_must_fit_the_text_encoders(settings, shapes, expected):
    """An embedding for SD 1.5, which ComfyUI would ignore, is rejected; one that cannot be judged is accepted."""
    write(settings.models_dir / "embeddings" / "e.safetensors", shapes)
    assert fault("e", [CHECKPOINT], settings) == expected


def test_what_is_wrong_with_an_embedding(settings):
    """A missing file and a damaged one; a file that only PyTorch reads is not opened."""
    folder = settings.models_dir / "embeddings"
    (folder / "damaged.safetensors").write_bytes(b"\xff" * 20)
    (folder / "pickled.pt").write_bytes(b"?")
    assert fault("nope", [CHECKPOINT], settings) == "does not exist"
    assert fault("damaged", [CHECKPOINT], settings) == "cannot be used: not a complete safetensors file"
    assert fault("pickled", [CHECKPOINT], settings) is None


def test_without_a_checkpoint_widths_are_not_compared(settings):
    """If the checkpoint is missing, the job fails for that reason, not for the embedding."""
    write(settings.models_dir / "embeddings" / "e.safetensors", {"emb_params": [4, 5]})
    assert fault("e", [ModelFile("checkpoints", "absent.safetensors")], settings) is None
