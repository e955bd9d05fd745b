import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.errors import WorkflowInvalid
from handler.workflow.build import build

PROFILES = Path(__file__).parents[3] / "workflows" / "profiles"


def test_stored_graph_is_never_changed(workflow):
    """Rendering returns a new graph each time and does not change the stored one."""
    before = workflow.render({})
    changed = workflow.render({"prompt": "a fish", "seed": 5})
    changed["1"]["inputs"]["ckpt_name"] = "other"
    assert workflow.render({}) == before
    assert changed != before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"prompt": st.text(min_size=1, max_size=50).filter(lambda text: not text.isspace())},
        optional={
            "negative_prompt": st.text(max_size=50),
            "seed": st.integers(0, 2**53 - 1),
            "width": st.integers(8, 24).map(lambda n: 64 * n),
            "num_inference_steps": st.integers(1, 60),
            "guidance_scale": st.floats(1, 20),
        },
    )
)
def test_what_a_request_sets_is_what_differs(workflow, request_values):
    """Exactly the inputs that a request sets differ from the stored graph, and they have its values."""
    graph, stored = workflow.render(workflow.parse(request_values).values), workflow.render({})
    places = {(p.node, p.input): p.name for p in workflow.parameters}
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            parameter = places.get((workflow.titles[node_id], name))
            if parameter in request_values:
                assert value == request_values[parameter]
            else:
                assert value == stored[node_id]["inputs"][name]


def test_defaults_are_those_of_the_public_api(workflow):
    """The literals of the stored graph are the documented settings."""
    info = workflow.info(workflow.render({"prompt": "x"}))
    assert info | {"prompt": "x", "seed": 0} == {
        "prompt": "x",
        "negative_prompt": "bad, ugly",
        "seed": 0,
        "steps": 20,
        "cfg": 5.0,
        "sampler_name": "dpmpp_2m_sde_gpu",
        "scheduler": "karras",
        "width": 1024,
        "height": 1024,
        "checkpoint": "sd_xl_base_1.0.safetensors",
    }


def test_tiny_profile_changes_names_and_sizes_only(files, workflow):
    """The tiny profile's graph is the stored one, except for file names and sizes."""
    graph, params, profile = files
    tiny = build("txt2img_alpha", graph, params, "tiny", profile).render({})
    stored = workflow.render({})
    differing = {
        name
        for node_id in stored
        for name, value in stored[node_id]["inputs"].items()
        if tiny[node_id]["inputs"][name] != value
    }
    assert differing == {"ckpt_name", "patch_name", "decoder_name", "width", "height"}


@pytest.mark.parametrize("profile", sorted(path.stem for path in PROFILES.glob("*.json")))
def test_every_stored_profile_goes_with_the_stored_workflow(files, profile):
    """Each file in workflows/profiles builds, and the models it lists are the names that its graph loads."""
    graph, params, _ = files
    overrides = json.loads((PROFILES / f"{profile}.json").read_text("utf-8"))
    built = build("txt2img_alpha", graph, params, profile, overrides)
    literals = {
        value for node in built.render({}).values() for value in node["inputs"].values() if isinstance(value, str)
    }
    assert {file.name for file in built.models} <= literals


def test_the_merged_profile_does_not_patch_again(files):
    """If the checkpoint contains the patch, its weight is 0 and its file is not needed."""
    graph, params, _ = files
    overrides = json.loads((PROFILES / "merged.json").read_text("utf-8"))
    merged = build("txt2img_alpha", graph, params, "merged", overrides)
    (patch,) = (node for node in merged.render({}).values() if node["class_type"] == "LayeredDiffusionApply")
    assert patch["inputs"]["weight"] == 0
    assert patch["inputs"]["patch_name"] not in {file.name for file in merged.models}


def drop(*keys):
    def change(graph, params, profile):
        target = {"graph": graph, "params": params, "profile": profile}
        for key in keys[:-1]:
            target = target[key]
        del target[keys[-1]]

    return change


def put(value, *keys):
    def change(graph, params, profile):
        target = {"graph": graph, "params": params, "profile": profile}
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop("graph", "3"), "Prompt: bypassed, muted, renamed or deleted, and prompt needs it; "),
        (drop("graph", "6", "inputs", "seed"), "Sampler: KSampler has no input 'seed', which seed sets"),
        (
            put(["1", 0], "graph", "6", "inputs", "steps"),
            "Sampler: its input 'steps', which num_inference_steps sets, comes from",
        ),
        (
            put("Sampler", "graph", "5", "_meta", "title"),
            "Sampler: 2 nodes have this title (EmptyLatentImage, KSampler)",
        ),
        (
            put(99, "graph", "6", "inputs", "steps"),
            "Sampler: 'steps' is 99, the default of num_inference_steps; it must be an integer from 1 to 60",
        ),
        (put({"prompt": 1}, "params", "warm_up", "full"), "full warm_up: prompt must be a string"),
        (put({"prompt": 1}, "params", "warm_up", "fast"), "fast warm_up: prompt must be a string"),
        (drop("params", "warm_up", "full"), "malformed: KeyError 'full'"),
        (drop("params", "request"), "malformed: KeyError 'request'"),
        (put({}, "profile", "request", "nonsense"), "unknown parameters"),
        (put(2000, "profile", "request", "width", "minimum"), "Size: 'width' is 128, the default of width; it must be"),
        (
            put({"x": 1}, "profile", "graph", "Nowhere"),
            "Nowhere: bypassed, muted, renamed or deleted, and profile tiny needs it",
        ),
        (put(5, "profile", "graph"), "malformed"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(files, change, reason):
    """Inconsistent files are rejected when they are read, not when a job runs."""
    graph, params, profile = copy.deepcopy(files)
    change(graph, params, profile)
    with pytest.raises(WorkflowInvalid, match="workflow") as caught:
        build("txt2img_alpha", graph, params, "tiny", profile)
    assert reason in caught.value.message


@pytest.mark.parametrize("graph", [None, [], 3, {"1": None}, {"1": {"inputs": {}}}])
def test_a_graph_of_another_form_is_rejected(files, graph):
    """JSON that is not a graph in API format is an error."""
    with pytest.raises(WorkflowInvalid, match="malformed"):
        build("txt2img_alpha", graph, files[1], "sdxl")
