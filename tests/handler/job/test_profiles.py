import shutil
from pathlib import Path

import pytest

from handler.errors import ModelMissing, WorkflowInvalid
from handler.job.fitness import check_weights
from handler.job.profiles import load, reload
from handler.settings import Settings
from handler.weights import locate

WORKFLOWS = Path(__file__).parents[3] / "workflows"


@pytest.fixture
def settings(tmp_path):
    shutil.copytree(WORKFLOWS, tmp_path / "workflows")
    return Settings(workflows_dir=tmp_path / "workflows", models_dir=tmp_path / "models")


def touch(settings, workflow):
    for file in workflow.models:
        path = settings.models_dir / file.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_auto_takes_sdxl_only_with_all_its_weights(settings):
    """If one of the weight files is missing, the tiny profile runs; if all are present, the stored graph."""
    touch(settings, load(settings.model_copy(update={"profile": "tiny"})))
    assert load(settings).profile == "tiny"
    touch(settings, load(settings.model_copy(update={"profile": "sdxl"})))
    assert load(settings).profile == "sdxl"
    (settings.models_dir / "layer_model" / "vae_transparent_decoder.safetensors").unlink()
    assert load(settings).profile == "tiny"


def test_a_changed_file_does_not_change_the_profile(settings):
    """The workflow is read again after SDXL's weights have vanished: it still needs them."""
    for profile in ("tiny", "sdxl"):
        touch(settings, load(settings.model_copy(update={"profile": profile})))
    current = load(settings)
    (settings.models_dir / "layer_model" / "vae_transparent_decoder.safetensors").unlink()
    assert load(settings).profile == "tiny"
    assert reload(settings, current).profile == "sdxl"


def test_without_any_weights_sdxl_s_are_missing(settings):
    """An image without weights, whose volume has none either, asks for SDXL's files and not for the tiny model's."""
    workflow = load(settings)
    with pytest.raises(ModelMissing, match="sd_xl_base_1.0.safetensors .* missing or unreadable in MODELS_DIR"):
        check_weights(settings, workflow)


def test_a_set_profile_is_taken_whatever_is_there(settings):
    """PROFILE=sdxl never falls back to the tiny model; the missing files are known by name."""
    workflow = load(settings.model_copy(update={"profile": "sdxl"}))
    assert workflow.profile == "sdxl"
    assert [str(file) for file in locate.missing(workflow.models, settings)] == [
        "models/checkpoints/sd_xl_base_1.0.safetensors",
        "models/layer_model/layer_xl_transparent_attn.safetensors",
        "models/layer_model/vae_transparent_decoder.safetensors",
    ]


@pytest.mark.parametrize("name", ["txt2img_alpha.json", "txt2img_alpha.params.json", "profiles/tiny.json"])
@pytest.mark.parametrize("contents", [None, b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_a_damaged_file_is_named(settings, name, contents):
    """A missing, incomplete or wrong file is an error with the file's or workflow's name."""
    path = settings.workflows_dir / name
    path.unlink()
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(WorkflowInvalid, match=r"txt2img_alpha|tiny\.json"):
        load(settings.model_copy(update={"profile": "tiny"}))
