"""Can this graph give one transparent picture of a known size? If not, what to do about it, one finding per fault."""

import re
from collections.abc import Iterator, Mapping

from handler.workflow import transparency
from handler.workflow.graph import Finding, Graph, Links

BATCH_INPUT = "batch_size"
REPEATS = ("RepeatLatentBatch", "RepeatImageBatch")
CHOOSES = re.compile(r"(Latent|Image)FromBatch")  # takes one of several pictures
# Their pictures or latents are as large as the ones that they take.
KEEPS_SIZE = re.compile(
    r"KSampler\w*|SamplerCustom\w*|VAEDecode\w*|LayeredDiffusionDecode\w*|JoinImageWithAlpha|InvertMask|"
    rf"Empty\w*Latent\w*|VAEEncode\w*|LayeredDiffusion\w*Apply|LoadEncodedImage|{transparency.OUTPUT_CLASS}"
)


def findings(
    graph: Graph, output_node: str, merged: bool | None, set_by: Mapping[str, str] | None = None
) -> list[Finding]:
    """Returns why jobs would fail, or why the picture of the output node cannot be transparent.

    Args:
        graph: in API format.
        output_node: id of the node that sends the picture.
        merged: whether the checkpoint has the patch in its weights; None if that is unknown.
        set_by: id of the node that each parameter sets, by the parameter's name.
    """
    found = transparency.findings(graph, output_node, merged)
    found += [*_batches(graph, output_node), *_missing_values(graph, output_node)]
    return found or list(_without_effect(graph, output_node, set_by or {}))


def warnings(graph: Graph, output_node: str, size_nodes: tuple[str, ...]) -> list[Finding]:
    """Returns what may surprise, but does no harm.

    Args:
        graph: in API format.
        output_node: id of the node that sends the picture.
        size_nodes: ids of the nodes that have the picture's width and height.
    """
    links = Links(graph)
    run = set(links.upstream(output_node))
    used = {source for node in graph for source, _ in links.links(node)}
    idle = [node for node in graph if node not in run and node not in used]
    found = [
        Finding(links.title(node), f"{links.class_of(node)} is not part of the picture", "it will not run")
        for node in idle
    ]
    if resizing := changes_size(graph, output_node, size_nodes):
        fact = f"{links.class_of(resizing[0])} may change the picture's size"
        found.append(Finding(links.title(resizing[0]), fact, "replies report the size that the picture really has"))
    return found


def changes_size(graph: Graph, output_node: str, size_nodes: tuple[str, ...]) -> list[str]:
    """Returns the nodes between the size and the picture that may change its size."""
    links = Links(graph)
    run = links.upstream(output_node)
    return [
        node
        for node in run
        if node not in size_nodes
        and not KEEPS_SIZE.fullmatch(links.class_of(node))
        and not set(links.upstream(node)).isdisjoint(size_nodes)
    ]


def _batches(graph: Graph, output_node: str) -> Iterator[Finding]:
    links = Links(graph)
    run = links.upstream(output_node)
    if any(CHOOSES.fullmatch(links.class_of(node)) for node in run):
        return
    for node in run:
        name = "amount" if links.class_of(node) in REPEATS else BATCH_INPUT
        count = graph[node]["inputs"].get(name)
        if isinstance(count, int) and count != 1:
            yield Finding(links.title(node), f"it makes {count} pictures, and a job has one", f"set {name} to 1")


def _missing_values(graph: Graph, output_node: str) -> Iterator[Finding]:
    links = Links(graph)
    for node in links.upstream(output_node):
        for name, value in graph[node]["inputs"].items():
            if value is None:
                fact = f"its input '{name}' has no value"
                yield Finding(links.title(node), fact, f"choose one, or remove this {links.class_of(node)}")


def _without_effect(graph: Graph, output_node: str, set_by: Mapping[str, str]) -> Iterator[Finding]:
    links = Links(graph)
    run = set(links.upstream(output_node))
    for name, node in set_by.items():
        if node not in run:
            fact = f"not connected to {links.title(output_node)}, so {name} would have no effect"
            yield Finding(links.title(node), fact, f"connect it, or remove {name} from the params file")
