"""Between the stored graph and what the GUI shows of it: a profile's names and sizes, and back."""

import copy
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from handler.workflow.graph import Finding, Graph, Links
from handler.workflow.places import Place, Places

Profile = Mapping[str, Any]  # decoded; `graph` is title -> input -> value, `files` is stored name -> name
Values = dict[tuple[str, str], Any]  # by node and input
NO_PROFILE: Profile = MappingProxyType({})


def shown_with(graph: Graph, profile: Profile) -> Graph:
    """Returns the stored graph with a profile's values, for the GUI."""
    shown = copy.deepcopy(graph)
    changes = _files(shown, profile.get("files", {})) | _located(shown, profile.get("graph", {}))
    for (node, name), value in changes.items():
        shown[node]["inputs"][name] = value
    return shown


def stored_from(edited: Graph, stored: Graph, profile: Profile, params: Mapping[str, Any]) -> Graph:
    """Returns an edited graph as it is stored: a profile's values and random values become the stored ones again.

    Args:
        edited: the graph from the GUI.
        stored: the graph before the edit; empty for a new workflow.
        profile: the values that the GUI showed in place of stored ones.
        params: the decoded params file; the GUI chooses another seed for each run.
    """
    result = copy.deepcopy(edited)
    for (node, name), value in _files(edited, {own: name for name, own in profile.get("files", {}).items()}).items():
        result[node]["inputs"][name] = value
    for (node, name), value in _located(edited, profile.get("graph", {})).items():
        before = _value(stored, edited[node], name)
        if before is not None and edited[node]["inputs"][name] == value:
            result[node]["inputs"][name] = before
    random = [entry for entry in params.get("request", {}).values() if entry.get("random") and "node" in entry]
    for node, name in _located(edited, {entry["node"]: {entry["input"]: None} for entry in random}):
        before = _value(stored, edited[node], name)
        result[node]["inputs"][name] = 0 if before is None else before
    return result


def foreign_files(graph: Graph, profiles: Mapping[str, Profile]) -> list[Finding]:
    """Returns the files of other profiles that a stored graph names; `profiles` has these by name."""
    return [
        Finding(graph[node]["_meta"]["title"], f"'{name}' is {value}, a file of profile {each}", "choose SDXL's file")
        for each, profile in profiles.items()
        for (node, name), value in _own_files(graph, profile).items()
        if isinstance(value, str) and graph[node]["inputs"][name] == value
    ]


def _own_files(graph: Graph, profile: Profile) -> Values:
    own = profile.get("files", {}).values()
    return _located(graph, profile.get("graph", {})) | _files(graph, dict(zip(own, own, strict=True)))


def _files(graph: Graph, names: Mapping[str, str]) -> Values:
    """Returns the new names of the files that the graph names."""
    return {
        (node, name): names[value]
        for node in graph
        for name, value in graph[node]["inputs"].items()
        if isinstance(value, str) and value in names
    }


def _located(graph: Graph, overrides: Mapping[str, Mapping[str, Any]]) -> Values:
    """Returns the values by node and input; what is not in the graph is left out."""
    places = Places(Links(graph))
    values = {Place(title, name): value for title, inputs in overrides.items() for name, value in inputs.items()}
    places.find({place: [place.input] for place in values}, set())
    return {where: values[place] for place, where in places.found.items()}


def _value(stored: Graph, entry: Mapping[str, Any], name: str) -> Any:
    """Returns the stored value of the same input of the node with the same title; None if there is none."""
    return next(iter(_values(stored, entry, name)), None)


def _values(stored: Graph, entry: Mapping[str, Any], name: str) -> Iterator[Any]:
    for node in stored.values():
        if node.get("_meta") == entry.get("_meta") and not isinstance(node["inputs"].get(name, []), list):
            yield node["inputs"][name]
