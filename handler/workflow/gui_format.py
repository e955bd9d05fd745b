"""The GUI's own file format, which has positions and colours, and the API format, which ComfyUI runs.

Converts as the GUI exports (ComfyUI's frontend 1.47: utils/executionUtil.ts, subgraph/ExecutableNodeDTO.ts).
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from handler.errors import WorkflowInvalid
from handler.workflow.graph import Finding, Graph
from handler.workflow.node_classes import AFTER_GENERATE, ANY, NodeClasses

MUTED, BYPASSED = 2, 4  # modes of a node
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = -10, -20  # what links inside of a subgraph have as the node outside of it
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
OF_THE_GUI = {"SaveGLB": {"image": ""}}  # widgets that the frontend itself adds to a class, and ComfyUI does not know
NOT_RUN = (REROUTE, PRIMITIVE, "Note", "MarkdownNote")

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class _Value:
    """What an input gets instead of a link: an entry of `widgets_values` of another node."""

    widgets: list[Any]
    at: int


Source = list[Any] | _Value | None  # [id, number of the output] as in the API format


def is_gui_format(decoded: object) -> bool:
    """Returns whether decoded JSON is a graph in the GUI's own format."""
    return isinstance(decoded, dict) and "nodes" in decoded and "links" in decoded


def to_graph(layout: Entry, classes: NodeClasses) -> Graph:
    """Returns a graph of the GUI in API format, as the GUI's *Export (API)* writes it.

    Raises:
        WorkflowInvalid: it is malformed, or has classes that are not known or cannot be converted.
    """
    try:
        root = _Level(layout, _subgraphs(layout), classes)
        if found := [str(finding) for level in root.all() for finding in level.findings()]:
            raise WorkflowInvalid("; ".join(found), found)
        graph = {key: entry for level in root.all() for key, entry in level.exported()}
    except (KeyError, IndexError, TypeError, AttributeError) as exc:
        raise WorkflowInvalid(f"the GUI's file is malformed: {type(exc).__name__} {exc}") from exc
    for entry in graph.values():  # what was connected to a node that does not run
        missing = [name for name, value in entry["inputs"].items() if _is_link(value) and value[0] not in graph]
        for name in missing:
            del entry["inputs"][name]
    return graph


def with_values(layout: Entry, graph: Graph, classes: NodeClasses) -> dict[str, Any]:
    """Returns a copy of a graph in the GUI's format whose widgets have the values of one in API format.

    Args:
        layout: in the GUI's format; nodes that the graph does not have keep their values.
        graph: in API format, with the same ids.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(layout))
    for level in _Level(changed, _subgraphs(changed), classes).all():
        level.fill(graph)
    return changed


def _subgraphs(layout: Entry) -> dict[str, Entry]:
    return {entry["id"]: entry for entry in (layout.get("definitions") or {}).get("subgraphs", [])}


@dataclass
class _Level:
    """The nodes of a graph or of a subgraph.

    Attributes:
        layout: in the GUI's format.
        subgraphs: the definitions of all subgraphs by id.
        outer: the level that has the subgraph as a node.
        host: this node.
        prefix: of the ids that the nodes have in the API format.
    """

    layout: Entry
    subgraphs: Mapping[str, Entry]
    classes: NodeClasses
    outer: "_Level | None" = None
    host: Entry = field(default_factory=dict)
    prefix: str = ""

    def __post_init__(self) -> None:
        self.nodes = {node["id"]: node for node in self.layout["nodes"]}
        self.links = {link[0]: link[1:] for link in map(_link, self.layout["links"])}
        self.inner = {
            key: _Level(self.subgraphs[node["type"]], self.subgraphs, self.classes, self, node, f"{self.prefix}{key}:")
            for key, node in self.nodes.items()
            if node["type"] in self.subgraphs
        }

    def all(self) -> Iterator["_Level"]:
        """Yields this level and those of the subgraphs in it."""
        yield self
        for level in self.inner.values():
            yield from level.all()

    def findings(self) -> Iterator[Finding]:
        """Yields why nodes cannot be converted."""
        for node in self._run():
            kind = node["type"]
            title = node.get("title") or kind
            if kind not in self.classes:
                remedy = "install its node pack and run tools/record_object_info.py, or remove the node"
                yield Finding(title, f"ComfyUI has no class {kind}", remedy)
                continue
            slots = {slot["name"]: slot for slot in node.get("inputs", [])}
            widgets = self.classes.widgets(kind)
            odd = [name for name, slot in slots.items() if slot.get("widget") and name not in widgets]
            odd += [name for name in self.classes.required(kind) if name not in (*slots, *widgets)]
            if odd:
                yield Finding(
                    title, f"only the GUI can convert '{odd[0]}' of {kind}", "export it with File > Export (API)"
                )

    def exported(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields id and entry of each node that runs."""
        for node in self._run():
            kind = node["type"]
            own = {name: value for name, value in self._widgets(node) if name != AFTER_GENERATE}
            inputs = OF_THE_GUI.get(kind, {}) | own
            for number, slot in enumerate(node.get("inputs", [])):
                source = self._of_slot(node, number, slot["type"])
                if source is not None:
                    inputs[slot["name"]] = source.widgets[source.at] if isinstance(source, _Value) else source
            title = node.get("title") or self.classes.title(kind)
            yield f"{self.prefix}{node['id']}", {"inputs": inputs, "class_type": kind, "_meta": {"title": title}}

    def fill(self, graph: Graph) -> None:
        """Sets the values of widgets to those of a graph in API format."""
        for key, node in self.nodes.items():
            inputs = graph.get(f"{self.prefix}{key}", {}).get("inputs", {})
            values = node.get("widgets_values")
            if node["type"] not in self.classes or not inputs or not values:
                continue
            elsewhere: dict[str, Source] = {}
            for number, slot in enumerate(node.get("inputs", [])):
                elsewhere[slot["name"]] = source = self._of_slot(node, number, slot["type"])
                if isinstance(source, _Value) and not _is_link(inputs.get(slot["name"])):
                    source.widgets[source.at] = inputs[slot["name"]]
            for at, name in enumerate(self.classes.widgets(node["type"])):
                if name in inputs and elsewhere.get(name) is None:
                    if isinstance(values, dict):
                        values[name] = inputs[name]
                    elif at < len(values):
                        values[at] = inputs[name]

    def _run(self) -> list[Entry]:
        if self.outer is not None and not self._in_use():
            return []
        found = (node for node in self.nodes.values() if node["type"] not in (*NOT_RUN, *self.subgraphs))
        return [node for node in found if node.get("mode", 0) not in (MUTED, BYPASSED)]

    def _in_use(self) -> bool:
        """Returns whether the outermost subgraph around this runs; the GUI checks no other."""
        if self.outer is not None and self.outer.outer is not None:
            return self.outer._in_use()
        return self.host.get("mode", 0) not in (MUTED, BYPASSED)

    def _widgets(self, node: Entry) -> Iterator[tuple[str, Any]]:
        values = node.get("widgets_values") or []
        if isinstance(values, dict):
            known = self.classes.widgets(node["type"])
            yield from ((name, value) for name, value in values.items() if name in known)
        else:
            yield from zip(self.classes.widgets(node["type"]), values, strict=False)

    def _source(self, link: int, kind: str) -> Source:
        """Returns where a link comes from, past all nodes that do not run; None if from nowhere."""
        origin, number = self.links[link][:2]
        if origin == SUBGRAPH_INPUT:
            return self._outside(number, kind)
        node = self.nodes[origin]
        if node.get("mode", 0) in (MUTED, BYPASSED) or node["type"] == REROUTE:
            return self._passed_on(node, number, kind)
        if node["type"] == PRIMITIVE:
            return _Value(node["widgets_values"], 0)
        if origin in self.inner:
            return self.inner[origin]._inside(number, kind)
        return [f"{self.prefix}{origin}", number]

    def _passed_on(self, node: Entry, output: int, kind: str) -> Source:
        """Returns what a node that does not run passes on to an output."""
        if node.get("mode", 0) == MUTED:
            return None
        return self._of_slot(node, 0 if node["type"] == REROUTE else _bypass(node, output, kind), kind)

    def _inside(self, output: int, kind: str) -> Source:
        """Returns what an output of this subgraph is connected to."""
        links = [key for key, link in self.links.items() if link[2:4] == [SUBGRAPH_OUTPUT, output]]
        return self._source(links[0], kind) if links else None

    def _outside(self, number: int, kind: str) -> Source:
        """Returns what an input of this subgraph is connected to, or its value."""
        assert self.outer is not None
        name = self.layout["inputs"][number]["name"]
        slots = self.host.get("inputs", [])
        slot = next((each for each in slots if each["name"] == name), None)
        if slot is not None and slot.get("link") is not None:
            return self.outer._source(slot["link"], kind)
        promoted = [at for at in range(len(self.layout["inputs"])) if self._is_promoted(at)]
        values = self.host.get("widgets_values") or []
        at = promoted.index(number) if number in promoted else len(values)
        return _Value(values, at) if isinstance(values, list) and at < len(values) else None

    def _is_promoted(self, number: int) -> bool:
        """Returns whether an input of this subgraph sets a widget, which the subgraph's node then has too."""
        targets = [(link[2], link[3]) for link in self.links.values() if link[:2] == [SUBGRAPH_INPUT, number]]
        return any(self.nodes[node]["inputs"][slot].get("widget") for node, slot in targets if node in self.nodes)

    def _of_slot(self, node: Entry, number: int, kind: str) -> Source:
        slots = node.get("inputs", [])
        link = slots[number].get("link") if 0 <= number < len(slots) else None
        return None if link is None else self._source(link, kind)


def _link(link: Any) -> list[Any]:
    """Returns [id, origin, its output, target, its input, type]."""
    if isinstance(link, dict):
        return [link[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]
    return list(link)


def _bypass(node: Entry, output: int, kind: str) -> int:
    """Returns the input that a bypassed node passes on to an output; -1 if there is none."""
    kinds = [slot["type"] for slot in node.get("inputs", [])]
    if ANY in (kind, node["outputs"][output]["type"]):
        return output if output < len(kinds) else 0
    if output < len(kinds) and kinds[output] in (kind, ANY):
        return output
    return next((at for at, each in enumerate(kinds) if each in (kind, ANY)), -1)


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2
