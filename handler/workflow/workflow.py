"""The stored workflow as data: the graph, what callers may set in it, and what the reply reports of it.

A workflow consists of two files and an optional profile (workflows/README.md describes the format): the graph
in ComfyUI's API format, `<name>.params.json`, and a profile that overrides literals and bounds. Nodes are
referred to by their titles. No node, input or parameter is named in this module.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from handler.errors import InvalidInput, WorkflowInvalid
from handler.workflow.parameter import EmbeddingFault, Parameter, shown
from handler.workflow.parameters import Request, parse, schema_of

Graph = dict[str, dict[str, Any]]

WARM_UP_MODES = ("full", "fast")

NO_OVERRIDES: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Place:
    """An input of the node with this title."""

    node: str
    input: str


@dataclass(frozen=True)
class ModelFile:
    """A weight file that the graph needs, in a folder below ComfyUI's models folder."""

    folder: str
    name: str

    def __str__(self) -> str:
        return f"models/{self.folder}/{self.name}"


@dataclass(frozen=True)
class Workflow:
    """A checked workflow.

    Attributes:
        name: file name without its suffix.
        profile: name of the overrides that it was built with.
        parameters: what callers may set.
        output_node: id of the node that sends the picture.
        titles: title of each node, by id.
        models: the weight files that it needs.
        warm_up: what is drawn before the first job, by mode: "full", a picture that must be transparent, and
            "fast", a small request that loads the models and runs every node once.
    """

    name: str
    profile: str
    parameters: tuple[Parameter, ...]
    output_node: str
    titles: Mapping[str, str]
    models: tuple[ModelFile, ...]
    warm_up: Mapping[str, Request]
    _graph: Graph
    _ids: Mapping[str, str]
    _info: Mapping[str, Place]
    _size: tuple[Place, Place]

    def parse(self, raw: object, embedding_fault: EmbeddingFault = lambda _: None) -> Request:
        """Returns the request that a job's input makes; raises InvalidInput with every fault.

        Args:
            embedding_fault: returns what is wrong with an embedding that a prompt names, or None.
        """
        return parse(raw, self.parameters, embedding_fault)

    def render(self, values: Mapping[str, Any]) -> Graph:
        """Returns a new graph with `values` (by parameter name) filled in; the stored graph is not changed."""
        graph = copy.deepcopy(self._graph)
        for parameter in self.parameters:
            place = _place_of(parameter)
            if place is not None and parameter.name in values:
                graph[self._ids[place.node]]["inputs"][place.input] = values[parameter.name]
        return graph

    def input_schema(self) -> dict[str, Any]:
        """Returns the JSON Schema of what callers may set, with the stored graph's literals as defaults."""
        defaults = {each.name: each.default for each in self.parameters if each.default is not None}
        defaults |= {
            each.name: self._literal(self._graph, place)
            for each in self.parameters
            if (place := _place_of(each)) is not None and not each.required and not each.random
        }
        return schema_of(self.parameters, defaults)

    def size(self, graph: Graph) -> tuple[int, int]:
        """Returns (width, height), in pixels, of the picture that a rendered graph makes."""
        width, height = (self._literal(graph, place) for place in self._size)
        return width, height

    def info(self, graph: Graph) -> dict[str, Any]:
        """Returns what the reply reports about a rendered graph, by public name."""
        return {name: self._literal(graph, place) for name, place in self._info.items()}

    def _literal(self, graph: Graph, place: Place) -> Any:
        return graph[self._ids[place.node]]["inputs"][place.input]


def build(name: str, graph: object, params: object, profile: str, overrides: object = NO_OVERRIDES) -> Workflow:
    """Returns the workflow that the decoded JSON files describe.

    Args:
        name: the workflow's name in the reply.
        graph: `{id: {"class_type", "inputs", "_meta": {"title"}}}`, ComfyUI's API format.
        params: `{"request", "info", "models", "output", "warm_up"}`, places as `{"node": title, "input"}`.
        profile: the name of the overrides in the reply.
        overrides: `{"graph": {title: {input: literal}}, "request": {name: {schema keyword: value}},
            "models": …}`, each optional; its models replace those in params.

    Raises:
        WorkflowInvalid: with every fault found.
    """
    try:
        return _build(name, copy.deepcopy(graph), params, profile, overrides)
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise WorkflowInvalid(f"workflow {name} is malformed: {type(exc).__name__} {exc}") from exc


def _build(name: str, graph: Any, params: Any, profile: str, overrides: Any) -> Workflow:
    titles = {node_id: node["_meta"]["title"] for node_id, node in graph.items()}
    ids = {title: node_id for node_id, title in titles.items()}
    faults = [] if len(ids) == len(titles) else ["two nodes have the same title"]
    for title, inputs in overrides.get("graph", {}).items():
        for input_name, literal in inputs.items():
            faults += _fault_of(graph, ids, Place(title, input_name))
            if title in ids:
                graph[ids[title]]["inputs"][input_name] = literal
    parameters = tuple(_parameters(params["request"], overrides.get("request", {})))
    info = {key: _place(entry) for key, entry in params["info"].items()}
    model_entries = overrides.get("models", params["models"])
    models = [_place(entry) for entry in model_entries]
    output = params["output"]
    size = (_place(output["width"]), _place(output["height"]))
    set_by_callers = [place for parameter in parameters if (place := _place_of(parameter)) is not None]
    for place in (*set_by_callers, *info.values(), *models, *size):
        faults += _fault_of(graph, ids, place)
    if output["node"] not in ids:
        faults.append(f"no node has the title {output['node']!r}")
    if not faults:
        faults += _faults_of_defaults(graph, ids, parameters)
    warm_up = _warm_up(params["warm_up"], parameters, faults)
    if faults:
        raise WorkflowInvalid(f"workflow {name}: {'; '.join(faults)}", faults)
    return Workflow(
        name=name,
        profile=profile,
        parameters=parameters,
        output_node=ids[output["node"]],
        titles=titles,
        models=tuple(
            ModelFile(entry["folder"], graph[ids[place.node]]["inputs"][place.input])
            for entry, place in zip(model_entries, models, strict=True)
        ),
        warm_up=warm_up,
        _graph=graph,
        _ids=ids,
        _info=info,
        _size=size,
    )


def _place(entry: Mapping[str, Any]) -> Place:
    return Place(entry["node"], entry["input"])


def _place_of(parameter: Parameter) -> Place | None:
    """Returns the input that a parameter sets; None if it is not an input of the graph."""
    if parameter.node is None or parameter.input is None:
        return None
    return Place(parameter.node, parameter.input)


def _parameters(request: Mapping[str, Any], overrides: Mapping[str, Any]) -> Iterator[Parameter]:
    if unknown := overrides.keys() - request.keys():
        raise ValueError(f"profile overrides unknown parameters {sorted(unknown)}")
    for name, entry in request.items():
        limits = dict(overrides.get(name, {}))
        presets = limits.pop("presets", entry.get("presets", {}))
        names = {"type": "string", "enum": list(presets)} if presets else {}
        yield Parameter(
            name=name,
            node=entry.get("node"),
            input=entry.get("input"),
            schema={**names, **entry.get("schema", {}), **limits},
            required=entry.get("required", False),
            random=entry.get("random", False),
            description=entry.get("description", ""),
            expected=entry.get("expected", ""),
            aliases=tuple(entry.get("aliases", ())),
            default=entry.get("default"),
            presets=presets,
        )


def _faults_of_defaults(graph: Graph, ids: Mapping[str, str], parameters: Sequence[Parameter]) -> list[str]:
    """Returns what callers could not send themselves: defaults, and the values that presets stand for."""
    found = [
        ("default", each, graph[ids[place.node]]["inputs"][place.input])
        for each in parameters
        if (place := _place_of(each)) is not None
    ]
    found += [("default", each, each.default) for each in parameters if each.default is not None]
    known = {each.name: each for each in parameters}
    for each in parameters:
        for preset, values in each.presets.items():
            found += [(f"{each.name} {preset}: value", known[name], value) for name, value in values.items()]
    return [
        f"{what} of {each.name} must be {each.expectation()}, got {shown(value)}"
        for what, each, value in found
        if not each.accepts(value)
    ]


def _warm_up(raw: Mapping[str, Any], parameters: Sequence[Parameter], faults: list[str]) -> dict[str, Request]:
    """Returns the warm-up requests; adds what is wrong with them to `faults`."""
    requests = {}
    for mode in WARM_UP_MODES:
        try:
            requests[mode] = parse(raw[mode], parameters)
        except InvalidInput as exc:
            faults += [f"{mode} warm_up: {fault}" for fault in exc.details]
    return requests


def _fault_of(graph: Graph, ids: Mapping[str, str], place: Place) -> list[str]:
    """Returns why `place` is not a literal of the graph, as a list with one fault; an empty list if it is one."""
    if place.node not in ids:
        return [f"no node has the title {place.node!r}"]
    inputs = graph[ids[place.node]]["inputs"]
    if place.input not in inputs:
        return [f"node {place.node!r} has no input {place.input!r}"]
    if isinstance(inputs[place.input], list):
        return [f"input {place.input!r} of node {place.node!r} is a link, expected a literal"]
    return []
