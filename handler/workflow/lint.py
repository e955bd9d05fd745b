"""Can this graph give a transparent picture? If not, what to do about it, one finding per fault.

A graph that breaks one of these rules draws an opaque picture, or fails, in every job. Nodes of other packs are given
the benefit of the doubt: a rule is only broken if the graph itself shows it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from handler.workflow.workflow import Graph

OUTPUT_CLASS = "SaveAlphaImageWebsocket"
PATCH_CLASS = re.compile(r"LayeredDiffusion\w*Apply")
DECODER_CLASS = re.compile(r"LayeredDiffusionDecode\w*")
RGBA_DECODERS = ("LayeredDiffusionDecodeRGBA", "LayeredDiffusionDecodeSplit")  # their first output has alpha
WITHOUT_ALPHA = ("LayeredDiffusionDecode", "VAEDecode", "VAEDecodeTiled", "SplitImageWithAlpha")
JOIN_CLASS = "JoinImageWithAlpha"
SD15 = "SD15"  # start of the configs for which LayeredDiffusionApply ignores the weight


@dataclass(frozen=True)
class Finding:
    """A reason why the graph cannot work.

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


def findings(graph: Graph, output_node: str, merged: bool | None) -> list[Finding]:
    """Returns why the picture of the output node cannot be transparent; an empty list if it can.

    Args:
        graph: in API format.
        output_node: id of the node that sends the picture.
        merged: whether the checkpoint has the patch in its weights; None if that is unknown.
    """
    return list(_Graph(graph).findings(output_node, merged))


class _Graph:
    """A graph, read against the direction of its links."""

    def __init__(self, nodes: Graph) -> None:
        self._nodes = nodes

    def findings(self, output_node: str, merged: bool | None) -> Iterator[Finding]:
        output = self._title(output_node)
        if self._class(output_node) != OUTPUT_CLASS:
            remedy = f"use a {OUTPUT_CLASS} node, which sends the picture and its alpha"
            yield Finding(output, f"{self._class(output_node)} does not report the picture's alpha", remedy)
        source = self._link(output_node, "images")
        if source is None:
            yield Finding(output, "no picture is connected to its input 'images'", f"connect {self._decoder_hint()}")
            return
        decoders = self._decoders_of_alpha(source, set())
        if not decoders:
            fact = f"the picture from {self._title(source[0])} has no alpha of a transparent decoder"
            yield Finding(output, fact, f"connect {self._decoder_hint()}")
        for decoder in decoders:
            yield from self._of_decoder(decoder, merged)

    def _of_decoder(self, decoder: str, merged: bool | None) -> Iterator[Finding]:
        latent = self._link(decoder, "samples")
        samplers = self._samplers(latent[0]) if latent else []
        if not samplers:
            yield Finding(self._title(decoder), "no sampler is connected to its input 'samples'", "connect the sampler")
            return
        chain = self._upstream(*(self._nodes[sampler]["inputs"]["model"][0] for sampler in samplers))
        patches = [node for node in chain if PATCH_CLASS.fullmatch(self._class(node))]
        applied = [node for node in patches if self._weight(node) != 0]
        if merged and applied:
            fact = "the checkpoint already has the patch in its weights, and this node would apply it again"
            yield Finding(self._title(applied[0]), fact, "set its weight to 0 (PROFILE=merged), or load the original")
        elif merged is False and patches and not applied:
            fact = "its weight is 0 and the checkpoint does not have the patch in its weights: pictures would be opaque"
            yield Finding(self._title(patches[0]), fact, "set its weight to 1, or run scripts/merge-patch")
        elif merged is False and not patches:
            yield self._unpatched(samplers[0], chain)

    def _unpatched(self, sampler: str, chain: list[str]) -> Finding:
        loaders = [node for node in chain if not any(self._links(node))]
        between = f"between {self._title(loaders[-1])} and this sampler" if loaders else "before this sampler"
        fact = f"no LayeredDiffusionApply node {between}: pictures would be opaque"
        spare = [self._title(node) for node in self._nodes if PATCH_CLASS.fullmatch(self._class(node))]
        remedy = f"connect {spare[0]}" if spare else "add one, or enable it again if it is bypassed"
        return Finding(self._title(sampler), fact, remedy)

    def _decoders_of_alpha(self, link: tuple[str, int], seen: set[tuple[str, int]]) -> list[str]:
        """Returns the decoders that the alpha of a picture comes from; an empty list if it has no alpha."""
        node, output = link
        if link in seen or node not in self._nodes:
            return []
        seen.add(link)
        kind = self._class(node)
        if kind in RGBA_DECODERS:
            return [node] if output == 0 else []
        if kind in WITHOUT_ALPHA:
            return []
        if kind == JOIN_CLASS:
            mask = self._link(node, "alpha")
            chain = self._upstream(mask[0]) if mask else []
            return [each for each in chain if DECODER_CLASS.fullmatch(self._class(each))][:1]
        found = [decoder for source in self._links(node) for decoder in self._decoders_of_alpha(source, seen)]
        return list(dict.fromkeys(found))

    def _samplers(self, node: str) -> list[str]:
        """Returns the nodes that give the last sampling its model: a sampler, or a guider and a scheduler."""
        for level in self._levels(node):
            if found := [each for each in level if self._link(each, "model") is not None]:
                return found
        return []

    def _upstream(self, *nodes: str) -> list[str]:
        """Returns nodes and all that they depend on, nearest first."""
        return [node for level in self._levels(*nodes) for node in level]

    def _levels(self, *nodes: str) -> Iterator[list[str]]:
        """Yields the nodes, then those that they are connected to, and so on, each node once."""
        seen: set[str] = set()
        level = list(dict.fromkeys(node for node in nodes if node in self._nodes))
        while level:
            yield level
            seen.update(level)
            sources = [source for node in level for source, _ in self._links(node)]
            level = [node for node in dict.fromkeys(sources) if node in self._nodes and node not in seen]

    def _weight(self, node: str) -> Any:
        """Returns the weight of a patch node, even if it comes from another node; None if it is unknown."""
        inputs = self._nodes[node]["inputs"]
        if str(inputs.get("config", "")).startswith(SD15):
            return None
        source = self._link(node, "weight")
        return inputs.get("weight") if source is None else self._nodes.get(source[0], {}).get("inputs", {}).get("value")

    def _decoder_hint(self) -> str:
        """Returns what to connect to the output node, in words."""
        decoders = [node for node in self._nodes if self._class(node) in RGBA_DECODERS]
        return self._title(decoders[0]) if decoders else "a LayeredDiffusionDecodeRGBA node (is it muted or deleted?)"

    def _links(self, node: str) -> Iterator[tuple[str, int]]:
        for name in self._nodes[node]["inputs"]:
            if (link := self._link(node, name)) is not None:
                yield link

    def _link(self, node: str, name: str) -> tuple[str, int] | None:
        match self._nodes[node]["inputs"].get(name):
            case [str(source), int(output)]:
                return source, output
        return None

    def _class(self, node: str) -> str:
        return str(self._nodes[node]["class_type"])

    def _title(self, node: str) -> str:
        if node not in self._nodes:
            return f"node {node}"
        return str(self._nodes[node].get("_meta", {}).get("title") or self._class(node))
