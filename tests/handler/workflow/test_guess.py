"""The params file of a new workflow, guessed from its graph."""

import copy

import pytest

from handler.errors import WorkflowInvalid
from handler.job import stored_workflows
from handler.settings import Settings
from handler.workflow import guess
from handler.workflow.build import build

SETTINGS = Settings()
RULES = stored_workflows.read(SETTINGS.workflows_dir / stored_workflows.GUESS)


@pytest.fixture
def graph(files):
    return copy.deepcopy(files[0])


@pytest.fixture
def template(files):
    return files[1]


@pytest.mark.parametrize("name", stored_workflows.names(SETTINGS))
def test_the_stored_params_would_be_guessed(name):
    """Every field, what the reply reports, and all weight files of the workflows that ship."""
    graph, params = stored_workflows.graph(SETTINGS, name), stored_workflows.params(SETTINGS, name)
    guessed = guess.params(graph, params, RULES)
    assert sorted(map(str, guessed.pop("models"))) == sorted(map(str, params["models"]))
    assert guessed == {key: value for key, value in params.items() if key != "models"}


def test_titles_do_not_matter(graph, template):
    """Nodes are found by classes and links; the params then name the titles that they have."""
    for number, node in enumerate(graph.values()):
        node["_meta"]["title"] = f"Node {number}"
    workflow = build("mine", graph, guess.params(graph, template, RULES), "sdxl")
    rendered = workflow.render(
        {"prompt": "a", "negative_prompt": "b", "seed": 3, "num_inference_steps": 4, "width": 512}
    )
    assert (rendered["3"]["inputs"]["text"], rendered["4"]["inputs"]["text"]) == ("a", "b")
    assert (rendered["6"]["inputs"]["seed"], rendered["6"]["inputs"]["steps"]) == (3, 4)
    assert workflow.size(rendered) == (512, 1024)


def test_other_samplers(graph, template):
    """The seed, the steps and the guidance may belong to nodes of their own."""
    sampler = graph.pop("6")["inputs"]
    titled = {
        "20": ("RandomNoise", {"noise_seed": 0}),
        "21": ("BasicScheduler", {"model": sampler["model"], "scheduler": "karras", "steps": 20, "denoise": 1.0}),
        "22": ("CFGGuider", {**{key: sampler[key] for key in ("model", "positive", "negative")}, "cfg": 5.0}),
        "23": ("KSamplerSelect", {"sampler_name": "euler"}),
        "6": (
            "SamplerCustomAdvanced",
            {
                "noise": ["20", 0],
                "guider": ["22", 0],
                "sampler": ["23", 0],
                "sigmas": ["21", 0],
                "latent_image": sampler["latent_image"],
            },
        ),
    }
    graph |= {node: {"class_type": kind, "inputs": inputs, "_meta": {}} for node, (kind, inputs) in titled.items()}
    request = guess.params(graph, template, RULES)["request"]
    assert {name: request[name]["node"] for name in ("prompt", "negative_prompt", "seed", "guidance_scale")} == {
        "prompt": "Prompt",
        "negative_prompt": "Negative Prompt",
        "seed": "RandomNoise",
        "guidance_scale": "CFGGuider",
    }
    assert request["seed"]["input"] == "noise_seed"
    assert build("mine", graph, guess.params(graph, template, RULES), "sdxl").findings(merged=False) == []


def test_what_is_not_in_the_graph_is_left_out(graph, template):
    """A graph without guidance, for example."""
    del graph["6"]["inputs"]["cfg"]
    guessed = guess.params(graph, template, RULES)
    assert "guidance_scale" not in guessed["request"]
    assert "cfg" not in guessed["info"]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda graph: graph.pop("9"), "no node sends the picture"),
        (lambda graph: graph["5"].update(class_type="VAEEncode", inputs={}), "no node with an empty latent"),
    ],
)
def test_a_graph_without_picture_or_size_is_refused(graph, template, change, finding):
    """The finding says what to add."""
    change(graph)
    with pytest.raises(WorkflowInvalid) as caught:
        guess.params(graph, template, RULES)
    assert finding in caught.value.details[0]
