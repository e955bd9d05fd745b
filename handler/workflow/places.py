"""Finds the values that a params file and a profile name by a node's title and an input, also behind links."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from handler.workflow.graph import Finding, Links

# What nodes that only pass a number or a text on call it. Others are not set by callers: it may be a file's path.
VALUE_INPUTS = ("value", "number", "text", "string")


@dataclass(frozen=True)
class Place:
    """An input of the node with this title."""

    node: str
    input: str


@dataclass
class Places:
    """Where the values of a graph are.

    Attributes:
        links: the graph.
        found: id of the node that has the value, and the name of its input, by place.
        findings: why places were not found.
    """

    links: Links
    found: dict[Place, tuple[str, str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def find(self, users: Mapping[Place, list[str]], layers: set[Place]) -> None:
        """Finds all places, and adds one finding for each title or link that is in the way.

        Args:
            users: what needs each place, in words.
            layers: the places that name a file without which pictures are opaque.
        """
        by_title: dict[str, dict[str, list[str]]] = {}
        for place, names in users.items():
            by_title.setdefault(place.node, {}).setdefault(place.input, []).extend(names)
        for title, inputs in by_title.items():
            nodes = self.links.titled(title)
            if len(nodes) == 1:
                for name, needed_by in inputs.items():
                    self._follow(Place(title, name), nodes[0], _listed(needed_by))
            elif nodes:
                classes = ", ".join(self.links.class_of(node) for node in nodes)
                fact = f"{len(nodes)} nodes have this title ({classes}), which {_needed(inputs)} a node by"
                self.findings.append(Finding(title, fact, "rename all but one of them"))
            else:
                is_layer = any(Place(title, name) in layers for name in inputs)
                self.findings.append(self._missing(title, inputs, is_layer, set(by_title)))

    def value(self, place: Place) -> Any:
        """Returns the value at a place that was found."""
        node, name = self.found[place]
        return self.links.nodes[node]["inputs"][name]

    def shared(self, places: Mapping[str, Place]) -> Iterator[Finding]:
        """Yields a finding for every two names whose places have one and the same value."""
        first: dict[tuple[str, str], str] = {}
        for name, place in places.items():
            other = first.setdefault(self.found[place], name)
            if other != name:
                fact = f"{other} and {name} would both set its input '{self.found[place][1]}'"
                yield Finding(self.links.title(self.found[place][0]), fact, "use one node for each")

    def _follow(self, place: Place, node: str, needed_by: str) -> None:
        name, seen = place.input, set()
        while True:
            inputs = self.links.nodes[node]["inputs"]
            if name not in inputs:
                fact = f"{self.links.class_of(node)} has no input '{name}', which {needed_by} sets"
                self.findings.append(Finding(place.node, fact, "use a node that has it, or change the params file"))
                return
            link = self.links.link(node, name)
            if link is None:
                self.found[place] = node, name
                return
            source = link[0]
            inputs = self.links.nodes[source]["inputs"] if source in self.links.nodes else {}
            names = [name for name in VALUE_INPUTS if name in inputs]
            if source in seen or len(names) != 1:
                described = self.links.described(source) if source in self.links.nodes else f"node {source}"
                fact = f"its input '{place.input}', which {needed_by} sets, comes from {described}, which computes it"
                self.findings.append(Finding(place.node, fact, "name the node and input to set in the params file"))
                return
            seen.add(source)
            node, name = source, names[0]

    def _missing(self, title: str, inputs: Mapping[str, list[str]], is_layer: bool, taken: set[str]) -> Finding:
        rivals = {
            node: difflib.SequenceMatcher(None, title.lower(), self.links.title(node).lower()).ratio()
            for node in self.links.nodes
            if inputs.keys() <= self.links.nodes[node]["inputs"].keys() and self.links.title(node) not in taken
        }
        if rivals:
            nearest = max(rivals, key=lambda node: rivals[node])
            remedy = f"the nearest is {self.links.described(nearest)}: rename it, or change the params file"
            return Finding(title, f"{_needed(inputs)} a node with this title", remedy)
        result = ": the result would not be transparent" if is_layer else f", and {_needed(inputs)} it"
        fact = f"bypassed, muted, renamed or deleted{result}"
        return Finding(title, fact, "enable it, add it again under this title, or change the params file")


def _needed(inputs: Mapping[str, list[str]]) -> str:
    names = list(dict.fromkeys(name for needed_by in inputs.values() for name in needed_by))
    return f"{_listed(names)} need{'' if len(names) > 1 else 's'}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
