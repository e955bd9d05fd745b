"""A stored workflow as data: the graph, what callers may set in it, and what the reply reports of it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from handler.workflow import lint
from handler.workflow.graph import Finding, Graph
from handler.workflow.layout import Layout, chunks
from handler.workflow.parameter import Checks, Parameter
from handler.workflow.parameters import NO_CHECKS, Request, parse, schema_of
from handler.workflow.places import Place, Places

CHOICE = "workflow"  # the parameter that names a stored workflow
SAMPLED = "latent_image"  # input of KSampler and of ComfyUI's other samplers
METADATA = "metadata"  # input of the output node: whether it writes text chunks


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
        keeps_size: whether the picture is as large as `size` says; if not, only the picture itself tells.
        layout: where its nodes are in the GUI; None if that is unknown or not needed.
        alternatives: workflows that a request may name instead.
    """

    name: str
    profile: str
    parameters: tuple[Parameter, ...]
    output_node: str
    titles: Mapping[str, str]
    models: tuple[ModelFile, ...]
    warm_up: Mapping[str, Request]
    keeps_size: bool
    _graph: Graph
    _needed: Graph
    _places: Places
    _info: Mapping[str, Place]
    _size: tuple[Place, Place]
    layout: Layout | None = None
    alternatives: tuple["Workflow", ...] = ()

    @cached_property
    def samplers(self) -> frozenset[str]:
        """Ids of the nodes that sample, all of which take a latent image to start from."""
        return frozenset(node for node, entry in self._needed.items() if SAMPLED in entry["inputs"])

    def with_alternatives(self, others: Sequence["Workflow"]) -> "Workflow":
        """Returns the workflow with a parameter that chooses between it and the others."""
        choice = Parameter(
            name=CHOICE,
            node=None,
            input=None,
            schema={"type": "string", "enum": [self.name, *(other.name for other in others)]},
            description="The stored workflow that draws the picture. Each has its own defaults.",
            aliases=("model", "workflow_name", "template"),
            default=self.name,
        )
        own, *changed = (replace(each, parameters=(*each.parameters, choice)) for each in (self, *others))
        return replace(own, alternatives=tuple(changed))

    def named(self, name: object) -> "Workflow":
        """Returns the alternative with this name; this workflow if there is none."""
        return next((other for other in self.alternatives if other.name == name), self)

    def parse(self, raw: object, checks: Checks = NO_CHECKS) -> Request:
        """Returns the request that a job's input makes; raises InvalidInput with every fault.

        Args:
            checks: what only the worker knows about values.
        """
        chosen = self.named(raw.get(CHOICE) if isinstance(raw, dict) else None)
        return parse(raw, chosen.parameters, checks)

    def render(self, values: Mapping[str, Any]) -> Graph:
        """Returns a new graph of the nodes that run, with `values` (by parameter name) filled in."""
        graph = copy.deepcopy(self._needed)
        for name, place in places_of(self.parameters).items():
            node, key = self._places.found[place]
            if name in values and node in graph:
                graph[node]["inputs"][key] = values[name]
        return graph

    def findings(self, merged: bool | None) -> list[Finding]:
        """Returns why jobs would fail, or pictures could not be transparent; an empty list if all is well.

        Args:
            merged: whether the checkpoint has the patch in its weights; None if that is unknown.
        """
        set_by = {name: self._places.found[place][0] for name, place in places_of(self.parameters).items()}
        return lint.findings(self._graph, self.output_node, merged, set_by)

    def warnings(self) -> list[Finding]:
        """Returns what may surprise, but does no harm."""
        return lint.warnings(self._graph, self.output_node, size_nodes(self._places, self._size))

    def input_schema(self) -> dict[str, Any]:
        """Returns the JSON Schema of what callers may set, with the graph's literals as defaults, and the profile."""
        defaults = {each.name: each.default for each in self.parameters if each.default is not None}
        defaults |= {
            each.name: self._places.value(place)
            for each in self.parameters
            if (place := place_of(each)) is not None and not each.required and not each.random
        }
        return {**schema_of(self.parameters, defaults), "x-profile": self.profile}

    def input_schemas(self) -> dict[str, dict[str, Any]]:
        """Returns the JSON Schema of what callers may set in each workflow that they can choose, by its name."""
        schemas = {each.name: each.input_schema() for each in (self, *self.alternatives)}
        for name, schema in schemas.items() if self.alternatives else ():
            choice = schema["properties"][CHOICE]
            if name == self.name:
                choice["enum"] = [name, None]
            else:
                schema["properties"][CHOICE] = {"const": name, "description": choice["description"]}
                schema["required"] = [*schema["required"], CHOICE]
        return schemas

    def size(self, graph: Graph) -> tuple[int, int]:
        """Returns (width, height), in pixels, of the picture that a rendered graph makes."""
        width, height = (self._literal(graph, place) for place in self._size)
        return width, height

    def size_of(self, request: Request) -> tuple[int, int]:
        """Returns (width, height), in pixels, of the pictures that a request asks for."""
        chosen = self.named(request.values.get(CHOICE))
        return chosen.size(chosen.render(request.values))

    def info(self, graph: Graph) -> dict[str, Any]:
        """Returns what the reply reports about a rendered graph, by public name."""
        return {name: self._literal(graph, place) for name, place in self._info.items()}

    def with_metadata(self, graph: Graph) -> tuple[Graph, dict[str, Any]]:
        """Returns a rendered graph whose PNG has text chunks, and these: the graph and its layout, with the values."""
        output = graph[self.output_node]
        changed = {**output, "inputs": {**output["inputs"], METADATA: True}}
        return {**graph, self.output_node: changed}, chunks(self._without_images(graph), self.layout)

    def _without_images(self, graph: Graph) -> Graph:
        """Returns a rendered graph with the stored pictures in place of the caller's, which can have megabytes."""
        for place in (place_of(each) for each in self.parameters if each.is_image):
            if place is not None and (found := self._places.found[place])[0] in graph:
                node, key = found
                inputs = {**graph[node]["inputs"], key: self._graph[node]["inputs"][key]}
                graph = {**graph, node: {**graph[node], "inputs": inputs}}
        return graph

    def _literal(self, graph: Graph, place: Place) -> Any:
        node, name = self._places.found[place]
        return graph.get(node, self._graph[node])["inputs"][name]


def place_of(parameter: Parameter) -> Place | None:
    """Returns the input that a parameter sets; None if it is not an input of the graph."""
    if parameter.node is None or parameter.input is None:
        return None
    return Place(parameter.node, parameter.input)


def places_of(parameters: Sequence[Parameter]) -> dict[str, Place]:
    """Returns the inputs that parameters set, by the names of the values."""
    places = {each.name: place for each in parameters if (place := place_of(each)) is not None}
    return places | {each.crop_name: Place(*each.crop) for each in parameters if each.crop is not None}


def size_nodes(places: Places, size: tuple[Place, Place]) -> tuple[str, ...]:
    """Returns the nodes that have the picture's width and height, and those that these values are linked to."""
    return tuple(node for place in size for node in (places.found[place][0], *places.links.titled(place.node)))
