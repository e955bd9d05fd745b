"""The one form in which our tools write stored graphs, so that an edit changes only the lines that it is about."""

import json
from collections.abc import Mapping
from typing import Any

from handler.workflow.graph import Graph


def text(graph: Graph) -> str:
    """Returns a graph as JSON: nodes by id, one input per line."""
    nodes = [f"  {_json(node)}: {_node(graph[node])}" for node in sorted(graph, key=_by_number)]
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def _node(entry: Mapping[str, Any]) -> str:
    inputs = [f"      {_json(name)}: {_json(value)}" for name, value in entry["inputs"].items()]
    lines = [f'    "class_type": {_json(entry["class_type"])}']
    lines.append('    "inputs": {\n' + ",\n".join(inputs) + "\n    }" if inputs else '    "inputs": {}')
    if title := entry.get("_meta", {}).get("title"):
        lines.append(f'    "_meta": {{ "title": {_json(title)} }}')
    return "{\n" + ",\n".join(lines) + "\n  }"


def _by_number(node: str) -> tuple[list[int], str]:
    """Orders "2" before "10", and "10:3", a node in a subgraph, after "10"."""
    return [int(part) if part.isdecimal() else -1 for part in node.split(":")], node


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
