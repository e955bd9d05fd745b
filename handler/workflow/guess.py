"""Guesses the params file of a new workflow: what callers can set, found by classes and links instead of titles."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from handler.errors import WorkflowInvalid
from handler.workflow import outputs
from handler.workflow.graph import Graph, Links

# Inputs that several classes call the same; the nearest to the output counts.
INPUTS = {
    "steps": ("steps",),
    "cfg": ("cfg",),
    "seed": ("seed", "noise_seed"),
    "sampler_name": ("sampler_name",),
    "scheduler": ("scheduler",),
    "checkpoint": ("ckpt_name", "unet_name"),
}
FIELDS = {"num_inference_steps": "steps", "guidance_scale": "cfg"}  # of a request, if they have another name
EMPTY_LATENT = re.compile(r"Empty\w*Latent\w*")
FOLDERS = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "lora_name": "loras",
    "patch_name": "layer_model",
    "decoder_name": "layer_model",
    "control_net_name": "controlnet",
}

Place = dict[str, str]  # {"node": title, "input": name}, as in a params file


def params(graph: Graph, template: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the params of a graph in API format.

    Args:
        template: decoded params of another workflow: descriptions and limits of its fields are kept. Fields whose value
            is not found in the graph are left out.

    Raises:
        WorkflowInvalid: the graph has no picture output or no size.
    """
    links = Links(graph)
    try:
        output = outputs.find(graph, template["output"]["node"])
    except outputs.NoOutput as exc:
        raise WorkflowInvalid(str(exc.finding), [str(exc.finding)]) from exc
    found = dict(_found(links, output))
    if "width" not in found:
        fact = f"{links.title(output)}: no node with an empty latent sets the size; add an EmptyLatentImage"
        raise WorkflowInvalid(fact, [fact])
    guessed = copy.deepcopy(dict(template))
    own = {"node": links.title(output)}
    guessed["request"] = dict(_fields(guessed["request"], found, template["output"]["node"], own))
    guessed["info"] = {name: found[name] for name in guessed["info"] if name in found}
    guessed["models"] = list(_models(links, output))
    guessed["output"] = {**own, "width": found["width"], "height": found["height"]}
    guessed["warm_up"] = {
        mode: {name: value for name, value in values.items() if name in guessed["request"]}
        for mode, values in guessed["warm_up"].items()
    }
    return guessed


def _fields(
    request: Mapping[str, Any], found: Mapping[str, Place], output: str, own: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    for name, field in request.items():
        crop = {"crop": field["crop"] | own} if field.get("crop", {}).get("node") == output else {}
        if field.get("node") == output:
            yield name, field | own
        elif "node" not in field:
            yield name, field
        elif (place := found.get(FIELDS.get(name, name))) is not None:
            yield name, field | crop | place


def _found(links: Links, output: str) -> Iterator[tuple[str, Place]]:
    """Yields what callers may set and the reply reports, by name."""
    run = links.upstream(output)
    for name, inputs in INPUTS.items():
        if place := next((_place(links, node, key) for node in run for key in inputs if _has(links, node, key)), None):
            yield name, place
    for name, key in (("prompt", "positive"), ("negative_prompt", "negative")):
        sources = [link[0] for node in run if (link := links.link(node, key)) is not None]
        texts = [node for node in links.upstream(*sources[:1]) if _has(links, node, "text")]
        if texts:
            yield name, _place(links, texts[0], "text")
    sizes = [node for node in run if EMPTY_LATENT.fullmatch(links.class_of(node)) and _has(links, node, "width")]
    for key in ("width", "height") if sizes else ():
        yield key, _place(links, sizes[0], key)


def _models(links: Links, output: str) -> Iterator[dict[str, str]]:
    for node in links.upstream(output):
        for key, folder in FOLDERS.items():
            if _has(links, node, key):
                yield {**_place(links, node, key), "folder": folder}


def _has(links: Links, node: str, key: str) -> bool:
    return key in links.nodes[node]["inputs"]


def _place(links: Links, node: str, key: str) -> Place:
    return {"node": links.title(node), "input": key}
