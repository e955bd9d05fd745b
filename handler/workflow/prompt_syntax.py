"""The syntax of prompts as ComfyUI reads it: `(text:weight)`, nested brackets, `embedding:name`.

Finds what would fail in ComfyUI, so that the caller learns about it before anything runs. What is read from a prompt is
exactly what ComfyUI 0.30 reads (comfy/sd1_clip.py: token_weights, SDTokenizer); tests compare the two.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from handler.workflow.wording import shown

# ComfyUI's parser calls itself for each level, and fails at about 970 of them.
MAX_DEPTH = 100
# Weights multiply vectors. The tiny model survives 1e15 in float32, but a GPU computes in float16, which ends at 65504.
MAX_WEIGHT = 100.0
BRACKET_FACTOR = 1.1  # the weight of brackets without a number
EMBEDDING = "embedding:"


class TooDeep(ValueError):
    """Brackets are nested more than MAX_DEPTH levels deep."""


@dataclass(frozen=True)
class Segment:
    """A part of a prompt that has one weight; the text has no escapes."""

    text: str
    weight: float


def faults(prompt: str) -> list[str]:
    """Returns what ComfyUI could not process, one sentence each; an empty list if it can."""
    try:
        found = segments(prompt)
    except TooDeep:
        return [f"has brackets nested more than {MAX_DEPTH} deep"]
    weights = [
        f"has the weight {segment.weight:g} for {shown(segment.text)}, expected {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
        for segment in found
        if segment.text.strip() and not (math.isfinite(segment.weight) and abs(segment.weight) <= MAX_WEIGHT)
    ]
    nameless = [f"has {EMBEDDING!r} without a name"] if "" in _embeddings(found) else []
    return weights + nameless


def embeddings(prompt: str) -> list[str]:
    """Returns the names of the embeddings that a prompt without faults uses, each once, in order."""
    return list(dict.fromkeys(_embeddings(segments(prompt))))


def segments(prompt: str) -> list[Segment]:
    """Returns the prompt in parts of one weight each.

    Raises:
        TooDeep: brackets are nested more than MAX_DEPTH levels deep.
    """
    # The same replacements as ComfyUI makes, so that even a prompt with these control characters reads the same.
    escaped = prompt.replace("\\)", "\0\1").replace("\\(", "\0\2")
    return [
        Segment(text.replace("\0\1", ")").replace("\0\2", "("), weight) for text, weight in _weighted(escaped, 1.0, 0)
    ]


def _weighted(text: str, weight: float, depth: int) -> Iterator[tuple[str, float]]:
    if depth > MAX_DEPTH:
        raise TooDeep
    for item in _items(text):
        if len(item) >= 2 and item.startswith("(") and item.endswith(")"):
            yield from _weighted(*_weight_of(item[1:-1], weight), depth + 1)
        else:
            yield item, weight


def _weight_of(inner: str, weight: float) -> tuple[str, float]:
    """Returns the text in a pair of brackets and its weight: a number after the last colon, else a tenth more."""
    text, colon, number = inner.rpartition(":")
    if colon and text:
        try:
            return text, float(number)
        except ValueError:
            pass
    return inner, weight * BRACKET_FACTOR


def _items(text: str) -> Iterator[str]:
    """Yields the parts of a text: pairs of outer brackets, and what is between; unpaired brackets are text."""
    start = level = 0
    for match in re.finditer(r"[()]", text):
        at = match.start()
        if match[0] == "(":
            if level == 0 and at > start:
                yield text[start:at]
                start = at
            level += 1
        else:
            level -= 1
            if level == 0:
                yield text[start : at + 1]
                start = at + 1
    if start < len(text):
        yield text[start:]


def _embeddings(found: list[Segment]) -> Iterator[str]:
    """Yields the name after each `embedding:`, "" if there is none."""
    for segment in found:
        first, *others = re.split(rf"(?<=\s){EMBEDDING}", segment.text)
        words = [first.removeprefix(EMBEDDING)] if first.startswith(EMBEDDING) else []
        for word in (*words, *others):
            name = re.split(r"[<\[]", (word.split() or [""])[0])[0]
            yield name if name.strip(",") else ""
