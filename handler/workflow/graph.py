"""A graph in ComfyUI's API format, read against the direction of its links."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
Link = tuple[str, int]  # id of a node, number of its output


@dataclass(frozen=True)
class Finding:
    """What is wrong with a graph, or worth knowing.

    Attributes:
        node: title of the node to look at.
        fact: what is wrong with it.
        remedy: what to do.
    """

    node: str
    fact: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.fact}; {self.remedy}"


class Links:
    """Reads a graph; nodes are named by their ids."""

    def __init__(self, nodes: Graph) -> None:
        self.nodes = nodes

    def link(self, node: str, name: str) -> Link | None:
        """Returns what an input is connected to; None if it has a value of its own, or is missing."""
        match self.nodes[node]["inputs"].get(name):
            case [str(source), int(output)]:
                return source, output
        return None

    def links(self, node: str) -> Iterator[Link]:
        """Yields what the inputs of a node are connected to."""
        for name in self.nodes[node]["inputs"]:
            if (link := self.link(node, name)) is not None:
                yield link

    def upstream(self, *nodes: str) -> list[str]:
        """Returns nodes and all that they depend on, nearest first."""
        return [node for level in self.levels(*nodes) for node in level]

    def levels(self, *nodes: str) -> Iterator[list[str]]:
        """Yields the nodes, then those that they are connected to, and so on, each node once."""
        seen: set[str] = set()
        level = list(dict.fromkeys(node for node in nodes if node in self.nodes))
        while level:
            yield level
            seen.update(level)
            sources = [source for node in level for source, _ in self.links(node)]
            level = [node for node in dict.fromkeys(sources) if node in self.nodes and node not in seen]

    def class_of(self, node: str) -> str:
        """Returns the class of a node."""
        return str(self.nodes[node]["class_type"])

    def title(self, node: str) -> str:
        """Returns the title of a node; its class if it has none."""
        if node not in self.nodes:
            return f"node {node}"
        return str(self.nodes[node].get("_meta", {}).get("title") or self.class_of(node))

    def titled(self, title: str) -> list[str]:
        """Returns the nodes with this title."""
        return [node for node in self.nodes if self.title(node) == title]

    def described(self, node: str) -> str:
        """Returns the title and the class of a node, for messages."""
        return f'"{self.title(node)}" ({self.class_of(node)})'
