"""Where the nodes of a stored workflow are in the GUI, and a picture's way back into it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import WorkflowInvalid
from handler.workflow import gui_format
from handler.workflow.graph import Graph, Links
from handler.workflow.node_classes import NodeClasses

VIEW = "ds"  # the part of the graph that was in view; it changes without an edit


@dataclass(frozen=True)
class Layout:
    """A graph in the GUI's own format: positions, colours, groups and notes.

    Attributes:
        saved: as the GUI saved it.
        classes: the node classes that it was saved with.
    """

    saved: Mapping[str, Any]
    classes: NodeClasses

    def fits(self, graph: Graph) -> bool:
        """Returns whether it has the nodes of a stored graph, and connects them in the same way."""
        try:
            own = gui_format.to_graph(self.saved, self.classes)
        except WorkflowInvalid:
            return False
        return own.keys() == graph.keys() and all(_shape(own, node) == _shape(graph, node) for node in graph)

    def with_values(self, graph: Graph) -> dict[str, Any]:
        """Returns the graph in the GUI's format with the values of one in API format, as a file has it."""
        filled = gui_format.with_values(self.saved, graph, self.classes)
        return filled | {"extra": {name: value for name, value in filled.get("extra", {}).items() if name != VIEW}}


def chunks(graph: Graph, layout: Layout | None) -> dict[str, Any]:
    """Returns what a picture's file says about the graph that drew it: the GUI opens it from these text chunks."""
    return {"prompt": graph} if layout is None else {"prompt": graph, "workflow": layout.with_values(graph)}


def _shape(graph: Graph, node: str) -> tuple[str, str, dict[str, tuple[str, int]]]:
    links = Links(graph)
    connected = {name: link for name in graph[node]["inputs"] if (link := links.link(node, name)) is not None}
    return links.class_of(node), links.title(node), connected
