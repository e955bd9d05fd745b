"""Which node of a graph sends the picture, and what of the graph has to run for it."""

from collections.abc import Mapping
from typing import Any

from handler.workflow import transparency
from handler.workflow.graph import Finding, Graph, Links
from handler.workflow.transparency import OUTPUT_CLASS

PICTURE_OUTPUTS = ("SaveImage", "PreviewImage")  # they write files; their picture is sent instead


class NoOutput(Exception):
    """The workflow has no picture to send.

    Attributes:
        finding: why.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


def find(graph: Graph, title: str) -> str:
    """Returns the id of the output node: the one with this title, else the only one whose picture has alpha.

    Raises:
        NoOutput: there is none, or there are several.
    """
    links = Links(graph)
    titled = links.titled(title)
    if len(titled) == 1:
        return titled[0]
    outputs = [node for node in titled or graph if links.class_of(node) in (OUTPUT_CLASS, *PICTURE_OUTPUTS)]
    with_alpha = [node for node in outputs if transparency.decoders(graph, node)]
    ours = [node for node in with_alpha if links.class_of(node) == OUTPUT_CLASS]
    candidates = ours or with_alpha or outputs
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = " and ".join(links.described(node) for node in candidates)
        raise NoOutput(Finding(title, f"several nodes could send the picture: {names}", f'name one of them "{title}"'))
    decoders = [node for node in graph if links.class_of(node) in transparency.RGBA_DECODERS]
    source = links.title(decoders[0]) if decoders else "a LayeredDiffusionDecodeRGBA node"
    fact = "no node sends the picture: it is bypassed, muted or deleted"
    raise NoOutput(Finding(title, fact, f"add a {OUTPUT_CLASS} node and connect {source}"))


def with_own_output(graph: Graph, output: str, title: str, defaults: Mapping[str, Any]) -> Graph:
    """Returns the graph with an output node that sends the picture and its alpha.

    Args:
        output: id of the node; a SaveImage or PreviewImage is replaced.
        title: the new title of the node.
        defaults: values of the inputs that it does not have.
    """
    node = graph[output]
    if node["class_type"] not in {OUTPUT_CLASS, *PICTURE_OUTPUTS}:
        return graph
    inputs = node["inputs"]
    if node["class_type"] in PICTURE_OUTPUTS:
        inputs = {name: link for name, link in inputs.items() if name == "images"}
    own = {"class_type": OUTPUT_CLASS, "inputs": {**defaults, **inputs}, "_meta": {"title": title}}
    return {**graph, output: {**node, **own}}


def needed(graph: Graph, output: str) -> Graph:
    """Returns those nodes of the graph that the picture depends on; the others would cost time and leave files."""
    chosen = set(Links(graph).upstream(output))
    return {node: entry for node, entry in graph.items() if node in chosen}
