"""Guesses the params file of a new workflow: what callers can set, found by classes and links instead of titles."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from handler.errors import WorkflowInvalid
from handler.workflow import outputs
from handler.workflow.graph import Graph, Links

EMPTY_LATENT = re.compile(r"Empty\w*Latent\w*")
WIDTH, HEIGHT, TEXT = "width", "height", "text"

Rules = Mapping[str, Mapping[str, Any]]
Place = dict[str, str]  # {"node": title, "input": name}, as in a params file


def params(graph: Graph, template: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Returns the params of a graph in API format.

    Args:
        template: decoded params of another workflow: descriptions and limits of its fields are kept. Fields whose value
            is not found in the graph are left out.
        rules: decoded workflows/guess.json: `inputs`, what nodes call each value (the nearest to the output counts);
            `texts`, the inputs that each prompt arrives at; `fields` with another name than their value; `folders`.

    Raises:
        WorkflowInvalid: the graph has no picture output or no size.
    """
    links = Links(graph)
    try:
        output = outputs.find(graph, template["output"]["node"])
    except outputs.NoOutput as exc:
        raise WorkflowInvalid(str(exc.finding), [str(exc.finding)]) from exc
    found = dict(_found(links, output, rules))
    if WIDTH not in found:
        fact = f"{links.title(output)}: no node with an empty latent sets the size; add an EmptyLatentImage"
        raise WorkflowInvalid(fact, [fact])
    guessed = copy.deepcopy(dict(template))
    own = {"node": links.title(output)}
    places = {name: found.get(rules["fields"].get(name, name)) for name in template["request"]}
    guessed["request"] = dict(_fields(template, places, own))
    guessed["info"] = {name: found[name] for name in guessed["info"] if name in found}
    guessed["models"] = list(_models(links, output, rules["folders"]))
    guessed["output"] = {**own, WIDTH: found[WIDTH], HEIGHT: found[HEIGHT]}
    guessed["warm_up"] = {
        mode: {name: value for name, value in values.items() if name in guessed["request"]}
        for mode, values in guessed["warm_up"].items()
    }
    return guessed


def _fields(
    template: Mapping[str, Any], places: Mapping[str, Place | None], own: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    for name, field in template["request"].items():
        if field.get("node") == template["output"]["node"]:
            yield name, field | own
        elif "node" not in field:
            yield name, field
        elif (place := places[name]) is not None:
            crop = {"crop": field["crop"] | own} if "crop" in field else {}
            yield name, field | place | crop


def _found(links: Links, output: str, rules: Rules) -> Iterator[tuple[str, Place]]:
    """Yields what callers may set and the reply reports, by name."""
    run = links.upstream(output)
    for name, inputs in rules["inputs"].items():
        if place := next((_place(links, node, key) for node in run for key in inputs if _has(links, node, key)), None):
            yield name, place
    for name, inputs in rules["texts"].items():
        sources = [source for node in run if (source := _source(links, node, inputs)) is not None]
        texts = [node for node in links.upstream(*sources[:1]) if _has(links, node, TEXT)]
        if texts:
            yield name, _place(links, texts[0], TEXT)
    sizes = [node for node in run if EMPTY_LATENT.fullmatch(links.class_of(node)) and _has(links, node, WIDTH)]
    for key in (WIDTH, HEIGHT) if sizes else ():
        yield key, _place(links, sizes[0], key)


def _models(links: Links, output: str, folders: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for node in links.upstream(output):
        for key, folder in folders.items():
            if _has(links, node, key):
                yield {**_place(links, node, key), "folder": folder}


def _source(links: Links, node: str, inputs: Sequence[str]) -> str | None:
    """Returns the node that one of these inputs comes from, behind nodes that pass it on; None if there is none."""
    found = None
    seen: set[str] = set()
    while node in links.nodes and node not in seen:
        seen.add(node)
        link = next((link for key in inputs if (link := links.link(node, key)) is not None), None)
        if link is None:
            break
        found = node = link[0]
    return found


def _has(links: Links, node: str, key: str) -> bool:
    return key in links.nodes[node]["inputs"]


def _place(links: Links, node: str, key: str) -> Place:
    return {"node": links.title(node), "input": key}
