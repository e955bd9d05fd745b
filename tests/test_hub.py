"""The files that RunPod's Hub reads have the documented shape: .runpod/hub.json and tests.json."""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from handler.job import profiles
from handler.settings import Settings
from tools import hub, icon

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
            {
                "allowedCudaVersions": CUDA,
                "presets": {"type": "array", "items": exact({"name": TEXT, "defaults": {"type": "object"}})},
                "env": {"type": "array", "items": exact({"key": TEXT, "input": INPUT})},
            },
        ),
    },
    {"iconUrl": {"type": "string", "pattern": "^https://"}},
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


def test_every_setting_and_choice_has_a_label_of_its_own():
    """The Hub shows labels, so no two are equal; none is left of a setting that no longer exists."""
    labels = [entry["input"]["name"] for entry in hub.entries()]
    assert sorted(labels) == sorted(set(hub.LABELS.values()))
    offered = {entry["key"].lower(): entry["input"].get("options") for entry in hub.entries()}
    assert {
        name: {option["value"]: option["label"] for option in options} for name, options in offered.items() if options
    } == hub.CHOICES


def test_presets_set_the_same_valid_settings():
    """Choosing another preset replaces every value of the one before, and the worker accepts each of them."""
    presets = read("hub.json")["config"]["presets"]
    first, *others = (preset["defaults"] for preset in presets)
    assert first == {name: Settings.model_fields[name.lower()].default for name in first}
    for values in (first, *others):
        assert values.keys() == first.keys()
        Settings(**{name.lower(): value for name, value in values.items()})


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/someone/layerdiffuse-alpha.git",
        "https://github.com/someone/layerdiffuse-alpha",
        "git@github.com:someone/layerdiffuse-alpha.git",
        "ssh://git@github.com/someone/layerdiffuse-alpha.git",
    ],
)
def test_the_icon_s_url_comes_from_the_remote(remote):
    """Each of GitHub's spellings of a repository leads to the file in it."""
    url = hub.icon_url(remote)
    assert url == "https://raw.githubusercontent.com/someone/layerdiffuse-alpha/HEAD/.runpod/icon.png"


@pytest.mark.parametrize(
    "remote", ["", "/srv/layerdiffuse-alpha.git", "https://github.com.example/a/b", "git@host:a/b"]
)
def test_another_remote_has_no_icon_url(remote):
    """Only GitHub's URLs of files are known."""
    assert hub.icon_url(remote) is None


def test_the_icon_is_what_its_program_draws():
    """Pixel for pixel, so that an edit of either is noticed."""
    with Image.open(ROOT / ".runpod" / "icon.png") as stored:
        assert (stored.size, stored.mode) == ((icon.SIZE, icon.SIZE), "RGBA")
        assert stored.tobytes() == icon.draw_icon().tobytes()


def test_the_readme_s_request_is_valid():
    """The Hub shows .runpod/README.md instead of the root's; its example is a request that the workflow accepts."""
    (example,) = re.findall(r"```json\n(.+?)```", (ROOT / ".runpod" / "README.md").read_text("utf-8"), re.DOTALL)[:1]
    asked = json.loads(example)["input"]
    assert profiles.load(Settings(profile="sdxl")).parse(asked).values == asked


def test_the_rest_commands_are_json_with_the_hub_s_cuda_versions():
    """docs/deploy.md creates endpoints on the same hosts as the Hub does."""
    (commands,) = re.findall(r"```bash\n(.+?)```", (ROOT / "docs/deploy.md").read_text("utf-8"), re.DOTALL)
    template, endpoint = (json.loads(body) for body in re.findall(r"--json '(.+?)'", commands, re.DOTALL))
    config = read("hub.json")["config"]
    assert endpoint["allowedCudaVersions"] == config["allowedCudaVersions"]
    assert read("tests.json")["config"]["allowedCudaVersions"] == config["allowedCudaVersions"]
    assert template["containerDiskInGb"] == config["containerDiskInGb"]


def test_the_hub_s_tests_are_valid_requests():
    """The workflow accepts them in SDXL's profile."""
    workflow = profiles.load(Settings(profile="sdxl"))
    for test in read("tests.json")["tests"]:
        assert workflow.parse(test["input"]).values == test["input"]


def test_the_hub_finds_a_handler():
    """The Hub requires a handler file and a Dockerfile."""
    assert "from handler.__main__ import main" in (ROOT / ".runpod" / "handler.py").read_text("utf-8")
    assert (ROOT / "Dockerfile").is_file()
