"""Can this graph give a transparent picture? If not, what to do about it, one finding per fault.

A graph that breaks one of these rules draws an opaque picture, or fails, in every job. Nodes of other packs are given
the benefit of the doubt: a rule is only broken if the graph itself shows it.
"""

import re
from collections.abc import Iterator
from typing import Any

from handler.workflow.graph import Finding, Graph, Link, Links

OUTPUT_CLASS = "SaveAlphaImageWebsocket"
# LayeredDiffusionCondApply draws whole, opaque pictures.
PATCH_CLASS = re.compile(r"LayeredDiffusion(?!CondApply)\w*Apply")
GIVEN_CLASS = "LayeredDiffusionDiffApply"  # its patches are made for the original checkpoint
DECODER_CLASS = re.compile(r"LayeredDiffusionDecode\w*")
RGBA_DECODERS = ("LayeredDiffusionDecodeRGBA", "LayeredDiffusionDecodeSplit")  # their first output has alpha
WITHOUT_ALPHA = ("LayeredDiffusionDecode", "VAEDecode", "VAEDecodeTiled", "SplitImageWithAlpha")
JOIN_CLASS = "JoinImageWithAlpha"
SD15 = "SD15"  # start of the configs for which LayeredDiffusionApply ignores the weight


def decoders(graph: Graph, output_node: str) -> list[str]:
    """Returns the decoders that the alpha of an output node's picture comes from; an empty list if it has no alpha."""
    reader = _Reader(graph)
    source = reader.link(output_node, "images")
    return reader.decoders_of_alpha(source, set()) if source is not None else []


def findings(graph: Graph, output_node: str, merged: bool | None) -> list[Finding]:
    """Returns why the picture of the output node cannot be transparent; an empty list if it can.

    Args:
        graph: in API format.
        output_node: id of the node that sends the picture.
        merged: whether the checkpoint has the patch in its weights; None if that is unknown.
    """
    return list(_Reader(graph).findings(output_node, merged))


class _Reader(Links):
    """Finds what the alpha of a picture depends on."""

    def findings(self, output_node: str, merged: bool | None) -> Iterator[Finding]:
        output = self.title(output_node)
        if self.class_of(output_node) != OUTPUT_CLASS:
            remedy = f"use a {OUTPUT_CLASS} node, which sends the picture and its alpha"
            yield Finding(output, f"{self.class_of(output_node)} does not report the picture's alpha", remedy)
        source = self.link(output_node, "images")
        if source is None:
            yield Finding(output, "no picture is connected to its input 'images'", f"connect {self._decoder_hint()}")
            return
        decoders = self.decoders_of_alpha(source, set())
        if not decoders:
            fact = f"the picture from {self.title(source[0])} has no alpha of a transparent decoder"
            yield Finding(output, fact, f"connect {self._decoder_hint()}")
        for decoder in decoders:
            yield from self._of_decoder(decoder, merged)

    def _of_decoder(self, decoder: str, merged: bool | None) -> Iterator[Finding]:
        latent = self.link(decoder, "samples")
        samplers = self._samplers(latent[0]) if latent else []
        if not samplers:
            yield Finding(self.title(decoder), "no sampler is connected to its input 'samples'", "connect the sampler")
            return
        chain = self.upstream(*(self.nodes[sampler]["inputs"]["model"][0] for sampler in samplers))
        patches = [node for node in chain if PATCH_CLASS.fullmatch(self.class_of(node))]
        applied = [node for node in patches if self._weight(node) != 0]
        given = [node for node in applied if self.class_of(node) == GIVEN_CLASS]
        if merged and given:
            fact = "the checkpoint has another patch in its weights"
            yield Finding(self.title(given[0]), fact, "load the original checkpoint")
        elif merged and applied:
            fact = "the checkpoint already has the patch in its weights, and this node would apply it again"
            yield Finding(self.title(applied[0]), fact, "set its weight to 0 (PROFILE=merged), or load the original")
        elif merged is False and patches and not applied:
            fact = "its weight is 0 and the checkpoint does not have the patch in its weights: pictures would be opaque"
            yield Finding(self.title(patches[0]), fact, "set its weight to 1, or run scripts/merge-patch")
        elif merged is False and not patches:
            yield self._unpatched(samplers[0])

    def _unpatched(self, sampler: str) -> Finding:
        chain = [sampler]
        while (link := self.link(chain[-1], "model")) is not None and link[0] in self.nodes and link[0] not in chain:
            chain.append(link[0])
        between = f"between {self.title(chain[-1])} and this sampler" if chain[1:] else "before this sampler"
        fact = f"no LayeredDiffusionApply node {between}: pictures would be opaque"
        spare = [self.title(node) for node in self.nodes if PATCH_CLASS.fullmatch(self.class_of(node))]
        remedy = f"connect {spare[0]}" if spare else "add one, or enable it again if it is bypassed"
        return Finding(self.title(sampler), fact, remedy)

    def decoders_of_alpha(self, link: Link, seen: set[Link]) -> list[str]:
        """Returns the decoders that the alpha of a picture comes from; an empty list if it has no alpha."""
        node, output = link
        if link in seen or node not in self.nodes:
            return []
        seen.add(link)
        kind = self.class_of(node)
        if kind in RGBA_DECODERS:
            return [node] if output == 0 else []
        if kind in WITHOUT_ALPHA:
            return []
        if kind == JOIN_CLASS:
            mask = self.link(node, "alpha")
            chain = self.upstream(mask[0]) if mask else []
            return [each for each in chain if DECODER_CLASS.fullmatch(self.class_of(each))][:1]
        found = [decoder for source in self.links(node) for decoder in self.decoders_of_alpha(source, seen)]
        return list(dict.fromkeys(found))

    def _samplers(self, node: str) -> list[str]:
        """Returns the nodes that give the last sampling its model: a sampler, or a guider and a scheduler."""
        for level in self.levels(node):
            if found := [each for each in level if self.link(each, "model") is not None]:
                return found
        return []

    def _weight(self, node: str) -> Any:
        """Returns the weight of a patch node, even if it comes from another node; None if it is unknown."""
        inputs = self.nodes[node]["inputs"]
        if str(inputs.get("config", "")).startswith(SD15):
            return None
        source = self.link(node, "weight")
        return inputs.get("weight") if source is None else self.nodes.get(source[0], {}).get("inputs", {}).get("value")

    def _decoder_hint(self) -> str:
        """Returns what to connect to the output node, in words."""
        decoders = [node for node in self.nodes if self.class_of(node) in RGBA_DECODERS]
        return self.title(decoders[0]) if decoders else "a LayeredDiffusionDecodeRGBA node (is it muted or deleted?)"
