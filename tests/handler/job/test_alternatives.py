"""`workflow` in a request: which stored workflow draws the picture."""

import json
import logging
import shutil

import pytest

from handler.errors import InvalidInput
from handler.job import profiles
from handler.settings import ROOT, Settings

TURBO = "txt2img_alpha_turbo"


@pytest.fixture
def settings(tmp_path):
    """Of a machine with two workflows and their weights."""
    shutil.copytree(ROOT / "workflows", tmp_path / "workflows", ignore=shutil.ignore_patterns("foreground*"))
    return Settings(profile="tiny", workflows_dir=tmp_path / "workflows")


def test_a_request_chooses_a_stored_workflow(settings):
    """Each has its own defaults; without the field, the workflow that is set draws."""
    workflow = profiles.load(settings)
    for raw, name, steps, cfg in [
        ({"prompt": "x"}, "txt2img_alpha", 20, 5.0),
        ({"prompt": "x", "workflow": None}, "txt2img_alpha", 20, 5.0),
        ({"prompt": "x", "workflow": TURBO}, TURBO, 4, 1.0),
        ({"prompt": "x", "workflow": TURBO, "num_inference_steps": 8}, TURBO, 8, 1.0),
    ]:
        request = workflow.parse(raw)
        chosen = workflow.named(request.values.get("workflow"))
        info = chosen.info(chosen.render(request.values))
        assert (chosen.name, chosen.profile, info["steps"], info["cfg"]) == (name, "tiny", steps, cfg)


def test_the_workflow_that_is_set_is_the_default(settings):
    """WORKFLOW=txt2img_alpha_turbo."""
    workflow = profiles.load(settings.model_copy(update={"workflow": TURBO}))
    assert workflow.input_schema()["properties"]["workflow"]["default"] == TURBO
    assert workflow.named("txt2img_alpha").name == "txt2img_alpha"


def test_the_schema_lists_the_names(settings):
    """So does the error for another name, together with all other faults."""
    workflow = profiles.load(settings)
    assert workflow.input_schema()["properties"]["workflow"]["enum"] == ["txt2img_alpha", TURBO, None]
    with pytest.raises(InvalidInput) as caught:
        workflow.parse({"workflow": "../secret", "seed": -1})
    assert caught.value.details[0] == "prompt is required"
    assert f'workflow must be one of "txt2img_alpha", "{TURBO}", got "../secret"' in caught.value.details
    assert len(caught.value.details) == 3
    with pytest.raises(InvalidInput, match="did you mean workflow"):
        workflow.parse({"prompt": "x", "model": TURBO})


def test_a_field_of_one_workflow_is_described(settings):
    """It is in that workflow's schema, and only that workflow accepts it."""
    path = settings.workflows_dir / f"{TURBO}.params.json"
    params = json.loads(path.read_text("utf-8"))
    params["request"]["strength"] = {
        "description": "Of the LoRA.",
        "node": "LoRA",
        "input": "strength_model",
        "schema": {"type": "number", "minimum": 0, "maximum": 2},
    }
    path.write_text(json.dumps(params), "utf-8")
    workflow = profiles.load(settings)
    fields = {name: schema["properties"] for name, schema in workflow.input_schemas().items()}
    assert "strength" not in fields["txt2img_alpha"]
    assert fields[TURBO]["strength"]["maximum"] == 2
    assert workflow.parse({"prompt": "x", "workflow": TURBO, "strength": 0.5}).values["strength"] == 0.5
    with pytest.raises(InvalidInput, match='unknown field "strength"'):
        workflow.parse({"prompt": "x", "strength": 0.5})


def test_a_workflow_that_cannot_draw_is_not_offered(settings, caplog, tmp_path):
    """Its weights are missing, or it is broken; the log says which, and the default works."""
    caplog.set_level(logging.INFO)
    models = shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("loras"))
    without = profiles.load(settings.model_copy(update={"models_dir": models}))
    (settings.workflows_dir / f"{TURBO}.json").write_text("{}", "utf-8")
    broken = profiles.load(settings)
    assert without.alternatives == broken.alternatives == ()
    missing, invalid = [record for record in caplog.records if record.message == "workflow not offered"]
    assert missing.missing == ["models/loras/tiny_lightning_4step_lora.safetensors"]
    assert (missing.workflow, invalid.workflow) == (TURBO, TURBO)
    assert "no node sends the picture" in invalid.reason
    with pytest.raises(InvalidInput, match='workflow must be one of "txt2img_alpha", got'):
        without.parse({"prompt": "x", "workflow": TURBO})


def test_a_missing_file_of_the_default_hides_no_workflow(settings, tmp_path):
    """Jobs wait for that file, and those that chose another workflow are still valid when it comes."""
    shutil.copytree(ROOT / "models" / "loras", tmp_path / "models" / "loras")
    without = profiles.load(settings.model_copy(update={"models_dir": tmp_path / "models"}))
    assert [workflow.name for workflow in without.alternatives] == [TURBO]
