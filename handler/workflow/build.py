"""Makes a workflow of its files: the graph in ComfyUI's API format, `<name>.params.json`, and a profile.

workflows/README.md describes the format. Nodes are referred to by their titles, and none of them is named here.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from handler.errors import InvalidInput, WorkflowInvalid
from handler.workflow import lint, outputs
from handler.workflow.graph import Finding, Links
from handler.workflow.gui_format import is_gui_format
from handler.workflow.parameter import Parameter
from handler.workflow.parameters import Request, parse
from handler.workflow.places import Place, Places
from handler.workflow.wording import shown
from handler.workflow.workflow import ModelFile, Workflow, place_of, places_of, size_nodes

WARM_UP_MODES = ("full", "fast")
PROFILES = "profiles"  # in a params file: the profiles that the workflow can have, besides the stored one
LAYERS = "layer_model"  # folder of the files without which pictures are opaque

NO_OVERRIDES: Mapping[str, Any] = MappingProxyType({})


def build(name: str, graph: object, params: object, profile: str, overrides: object = NO_OVERRIDES) -> Workflow:
    """Returns the workflow that the decoded JSON files describe.

    Args:
        name: the workflow's name in the reply.
        graph: `{id: {"class_type", "inputs", "_meta": {"title"}}}`, ComfyUI's API format.
        params: `{"request", "info", "models", "output", "warm_up"}`, places as `{"node": title, "input"}`.
        profile: the name of the overrides in the reply.
        overrides: `{"graph": {title: {input: literal}}, "files": {name: name}, "request": {name: {schema keyword:
            value}}, "without_models": places}`, each optional. `files` renames weight files; the last are inputs whose
            weight files are not needed.

    Raises:
        WorkflowInvalid: with every fault found.
    """
    try:
        return _build(name, copy.deepcopy(graph), params, profile, overrides)
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise WorkflowInvalid(f"workflow {name} is malformed: {type(exc).__name__} {exc}") from exc


def _build(name: str, graph: Any, params: Any, profile: str, overrides: Any) -> Workflow:
    if not isinstance(graph, dict):
        raise TypeError("the graph must be an object")
    if is_gui_format(graph):
        raise WorkflowInvalid(
            f"workflow {name} is in the GUI's own format; run layerdiffuse-alpha workflow convert, or export it with "
            "File > Export (API)"
        )
    if overrides and profile not in params.get(PROFILES, [profile]):
        raise WorkflowInvalid(f"workflow {name} does not run with profile {profile}")
    parameters = tuple(_parameters(params["request"], overrides.get("request", {})))
    info = {key: _place(entry) for key, entry in params["info"].items()}
    not_needed = [_place(entry) for entry in overrides.get("without_models", [])]
    model_entries = [entry for entry in params["models"] if _place(entry) not in not_needed]
    models = [_place(entry) for entry in model_entries]
    output = params["output"]
    size = (_place(output["width"]), _place(output["height"]))
    faults: list[Finding | str] = []
    try:
        output_node = outputs.find(graph, output["node"])
        defaults = {each.input: each.default for each in parameters if each.node == output["node"] and each.input}
        defaults |= {each.crop[1]: 0 for each in parameters if each.crop is not None and each.crop[0] == output["node"]}
        graph = outputs.with_own_output(graph, output_node, output["node"], defaults)
    except outputs.NoOutput as exc:
        faults.append(exc.finding)
        # One line is enough.
        parameters = tuple(replace(each, crop=None) for each in parameters if each.node != output["node"])
    places = Places(Links(graph))
    changes = {
        Place(title, key): literal
        for title, inputs in overrides.get("graph", {}).items()
        for key, literal in inputs.items()
    }
    users: dict[Place, list[str]] = {place: [name] for name, place in places_of(parameters).items()}
    for place in changes:
        users.setdefault(place, [f"profile {profile}"])
    for key, place in info.items():
        users.setdefault(place, [f"info.{key}"])
    for place in (*models, *size):
        users.setdefault(place, ["the params file"])
    places.find(users, {place for place, entry in zip(models, model_entries, strict=True) if entry["folder"] == LAYERS})
    faults += places.findings
    if not faults:
        for place, literal in changes.items():
            node, key = places.found[place]
            graph[node]["inputs"][key] = literal
        for place in models:
            node, key = places.found[place]
            graph[node]["inputs"][key] = overrides.get("files", {}).get(places.value(place), places.value(place))
        faults += places.shared(places_of(parameters))
        faults += _faults_of_defaults(places, parameters)
    warm_up = _warm_up(params["warm_up"], parameters, faults)
    if faults:
        lines = [str(fault) for fault in faults]
        raise WorkflowInvalid(f"workflow {name}: {'; '.join(lines)}", lines)
    return Workflow(
        name=name,
        profile=profile,
        parameters=parameters,
        output_node=output_node,
        titles={node: places.links.title(node) for node in graph},
        models=tuple(
            ModelFile(entry["folder"], places.value(place)) for entry, place in zip(model_entries, models, strict=True)
        ),
        warm_up=warm_up,
        keeps_size=not lint.changes_size(graph, output_node, size_nodes(places, size)),
        _graph=graph,
        _needed=outputs.needed(graph, output_node),
        _places=places,
        _info=info,
        _size=size,
    )


def _place(entry: Mapping[str, Any]) -> Place:
    return Place(entry["node"], entry["input"])


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
            count=entry.get("count", False),
            any_size=entry.get("any_size", False),
            crop=(entry["crop"]["node"], entry["crop"]["input"]) if "crop" in entry else None,
            description=entry.get("description", ""),
            expected=entry.get("expected", ""),
            aliases=tuple(entry.get("aliases", ())),
            default=entry.get("default"),
            presets=presets,
        )


def _faults_of_defaults(places: Places, parameters: Sequence[Parameter]) -> Iterator[Finding]:
    """Yields what callers could not send themselves: defaults, and the values that presets stand for."""
    found = [
        (place.node, f"'{place.input}' is", f"the default of {each.name}", each, places.value(place))
        for each in parameters
        if (place := place_of(each)) is not None
    ]
    found += [
        (each.name, "the default is", "in the params file", each, each.default)
        for each in parameters
        if each.default is not None
    ]
    known = {each.name: each for each in parameters}
    for each in parameters:
        for preset, values in each.presets.items():
            found += [
                (each.name, f"{preset} has the value", f"for {name}", known[name], value)
                for name, value in values.items()
            ]
    for title, what, role, each, value in found:
        if not each.accepts(value):
            yield Finding(title, f"{what} {shown(value)}, {role}", f"it must be {each.expectation()}")


def _warm_up(
    raw: Mapping[str, Any], parameters: Sequence[Parameter], faults: list[Finding | str]
) -> dict[str, Request]:
    """Returns the warm-up requests; adds what is wrong with them to `faults`."""
    requests = {}
    for mode in WARM_UP_MODES:
        try:
            requests[mode] = parse(raw[mode], parameters)
        except InvalidInput as exc:
            faults += [f"{mode} warm_up: {fault}" for fault in exc.details]
    return requests
