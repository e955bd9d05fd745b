"""The files that RunPod's Hub reads have the documented shape: .runpod/hub.json and tests.json."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from handler.job import profiles
from handler.settings import Settings
from tools import hub

ROOT = Path(__file__).parents[1]
TEXT = {"type": "string", "minLength": 1}
CUDA = {"type": "array", "items": {"type": "string", "pattern": r"^\d+\.\d$"}, "minItems": 1}


def exact(required, optional=None):
    """Returns the schema of an object that has these fields and no others."""
    properties = required | (optional or {})
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


INPUT = exact(
    {"name": TEXT, "type": {"enum": ["string", "number", "boolean"]}, "description": TEXT, "default": {}},
    {
        "required": {"type": "boolean"},
        "advanced": {"type": "boolean"},
        "options": {"type": "array", "items": exact({"label": TEXT, "value": TEXT}), "minItems": 2},
    },
)
HUB = exact(
    {
        "title": TEXT,
        "description": TEXT,
        "type": {"const": "serverless"},
        "category": {"enum": ["image"]},
        "config": exact(
            {
                "runsOn": {"const": "GPU"},
                "containerDiskInGb": {"type": "integer", "minimum": 20},
                "gpuCount": {"const": 1},
                "gpuIds": {"type": "string", "pattern": "^[A-Z]+_[0-9]+(,[A-Z]+_[0-9]+)*$"},
            },
            {"allowedCudaVersions": CUDA, "env": {"type": "array", "items": exact({"key": TEXT, "input": INPUT})}},
        ),
    },
    {"iconUrl": TEXT},
)
TESTS = exact(
    {
        "tests": {
            "type": "array",
            "minItems": 1,
            "items": exact(
                {"name": TEXT, "input": {"type": "object"}, "timeout": {"type": "integer", "minimum": 1000}}
            ),
        },
        "config": exact(
            {"gpuTypeId": TEXT, "gpuCount": {"const": 1}},
            {"env": {"type": "array", "items": exact({"key": TEXT, "value": TEXT})}, "allowedCudaVersions": CUDA},
        ),
    }
)


def read(name):
    return json.loads((ROOT / ".runpod" / name).read_text("utf-8"))


@pytest.mark.parametrize(("name", "schema"), [("hub.json", HUB), ("tests.json", TESTS)])
def test_the_file_has_the_documented_shape(name, schema):
    """Every field that the Hub requires, with the right type, and no unknown field."""
    assert [error.message for error in Draft202012Validator(schema).iter_errors(read(name))] == []


def test_the_hub_lists_the_worker_s_settings():
    """Names, types, defaults and descriptions come from handler/settings.py (scripts/hub writes them)."""
    assert read("hub.json")["config"]["env"] == hub.entries()


def test_the_hub_s_tests_are_valid_requests():
    """The workflow accepts them in SDXL's profile."""
    workflow = profiles.load(Settings(profile="sdxl"))
    for test in read("tests.json")["tests"]:
        assert workflow.parse(test["input"]).values == test["input"]


def test_the_hub_finds_a_handler():
    """The Hub requires a handler file and a Dockerfile."""
    assert "from handler.__main__ import main" in (ROOT / ".runpod" / "handler.py").read_text("utf-8")
    assert (ROOT / "Dockerfile").is_file()
