"""handler.workflow.prompt_syntax reads a prompt as ComfyUI's own parser and tokenizer do."""

import logging
import math
import sys

import pytest
from comfy import sd1_clip
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handler.workflow import prompt_syntax

EXAMPLES = 500

words = st.sampled_from(
    [
        *"()()()::,<[\\ .",
        "embedding:",
        " embedding:",
        " embedding:a",
        "1",
        "1.2",
        "-3",
        "nan",
        "inf",
        "1e400",
        "x",
        "\n",
    ]
)
prompts = st.lists(words | st.text(max_size=3), max_size=20).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The tokenizer of a CLIP text encoder, with an empty folder of embeddings."""
    return sd1_clip.SDTokenizer(embedding_directory=str(tmp_path_factory.mktemp("embeddings")))


def tokens(tokenizer, prompt):
    """Returns what ComfyUI makes of a prompt: [(token, weight)], or the class of what it raised."""
    try:
        return [pair for batch in tokenizer.tokenize_with_weights(prompt) for pair in batch]
    except (IndexError, RecursionError) as exc:
        return type(exc)


@settings(max_examples=EXAMPLES, deadline=None)
@given(prompts)
@example("\\(a\\)(b\0\1:2)")
@example("(a:\0\2)")
def test_segments_are_those_of_comfyui(prompt):
    """The same texts with the same weights, in the same order."""
    parsed = sd1_clip.token_weights(sd1_clip.escape_important(prompt), 1.0)
    expected = [(sd1_clip.unescape_important(text), weight) for text, weight in parsed]
    found = [(segment.text, segment.weight) for segment in prompt_syntax.segments(prompt)]
    assert repr(found) == repr(expected)  # so that nan equals nan


@settings(max_examples=EXAMPLES, deadline=None)
@given(prompts)
@example("embedding:")
@example("embedding: embedding:a")
@example("((x):nan)")
@example("(:nan)")
def test_what_comfyui_cannot_process_has_a_fault(tokenizer, prompt):
    """Without a fault, ComfyUI raises nothing and every weight is one that a tensor survives."""
    found = tokens(tokenizer, prompt)
    if not prompt_syntax.faults(prompt):
        assert isinstance(found, list), found
        assert all(math.isfinite(weight) and abs(weight) <= prompt_syntax.MAX_WEIGHT for _, weight in found)


def test_embeddings_are_those_that_comfyui_looks_for(tokenizer, monkeypatch):
    """The names that the tokenizer looks for are the names that we look for, as they stand in the prompt."""
    asked = []
    monkeypatch.setattr(sd1_clip, "load_embed", lambda name, *_: asked.append(name))
    logging.disable()

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(prompts)
    def check(prompt):
        if prompt_syntax.faults(prompt):
            return
        asked.clear()
        tokens(tokenizer, prompt)
        names = prompt_syntax.embeddings(prompt)
        assert list(dict.fromkeys(asked)) == list(
            dict.fromkeys(each for name in names for each in dict.fromkeys((name, name.strip(","))))
        )

    try:
        check()
    finally:
        logging.disable(logging.NOTSET)


def test_nesting_that_is_accepted_is_far_from_the_recursion_limit():
    """The deepest accepted nesting takes a tenth of the stack; 1000 levels are refused here and fail there."""
    deep = prompt_syntax.MAX_DEPTH
    sd1_clip.token_weights("(" * deep + "x" + ":1)" * deep, 1.0)
    assert deep <= sys.getrecursionlimit() / 10
    with pytest.raises(RecursionError):
        sd1_clip.token_weights("(" * 1000 + "x" + ")" * 1000, 1.0)
