"""Parsing of prompts; tests/custom_nodes/test_prompt_syntax.py compares it with ComfyUI's own parser."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.workflow.prompt_syntax import MAX_DEPTH, Segment, embeddings, faults, segments

prompts = st.lists(
    st.sampled_from([*"()()():,<[\\ .", "embedding:", " embedding:", "1", "1.2", "nan", "-inf", "1e400", "red", "\n"]),
    max_size=30,
).map("".join)


@pytest.mark.parametrize(
    "prompt",
    [
        "a (red:1.2) apple",
        "a (red) apple with [a leaf] and (((weights)))",
        ":)",
        "))((",
        "(((((",
        "((a)",
        "(" * 4000,
        "(:nan)",
        "( :nan)",
        "((a:1):nan)",
        "(a:b)",
        "(a:-100)",
        r"a \(:inf\) b",
        "nan inf 1e400",
        "embedding of an apple, myembedding:",
        "(embedding:1.2)",
        "(" * MAX_DEPTH + "a" + ":1)" * MAX_DEPTH,
        "",
        "   ",
    ],
)
def test_prompts_that_comfyui_processes_have_no_fault(prompt):
    """Ordinary weights, unpaired brackets, smileys, and weights that no text has."""
    assert faults(prompt) == []


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("(x:nan)", 'has the weight nan for "x", expected -100 to 100'),
        ("(x:inf)", 'has the weight inf for "x", expected -100 to 100'),
        ("a (x:-1e400) b", 'has the weight -inf for "x", expected -100 to 100'),
        ("((x):nan)", 'has the weight nan for "x", expected -100 to 100'),
        ("(x y:" + "9" * 500 + ")", 'has the weight inf for "x y", expected -100 to 100'),
        ("(x:101)", 'has the weight 101 for "x", expected -100 to 100'),
        ("(" * 60 + "x" + ")" * 60, 'has the weight 304.482 for "x", expected -100 to 100'),
        ("(" * 1000 + "x" + ")" * 1000, "has brackets nested more than 100 deep"),
        ("(" * 500 + "x" + ":1)" * 500, "has brackets nested more than 100 deep"),
        ("embedding:", "has 'embedding:' without a name"),
        ("a red apple, embedding: ", "has 'embedding:' without a name"),
        ("embedding: embedding:a", "has 'embedding:' without a name"),
        ("(embedding::1.2)", "has 'embedding:' without a name"),
        ("(embedding:)", "has 'embedding:' without a name"),
        ("embedding:,", "has 'embedding:' without a name"),
        ("embedding:<lora>", "has 'embedding:' without a name"),
    ],
)
def test_prompts_that_comfyui_cannot_process_have_a_fault(prompt, fault):
    """Weights that no tensor survives, recursion, and an embedding without a name."""
    assert faults(prompt) == [fault]


def test_every_fault_is_reported():
    """Two weights and a nameless embedding are three faults."""
    assert len(faults("(a:nan) (b:inf) embedding:")) == 3


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("embedding:foo", ["foo"]),
        ("a apple, embedding:foo, embedding:bar/baz embedding:foo,", ["foo,", "bar/baz"]),
        ("(embedding:foo:1.2) (x embedding:bar)", ["foo", "bar"]),
        ("embedding:foo[0.5] embedding:bar<x>", ["foo", "bar"]),
        ("an embedding:foo\nembedding:bar", ["foo", "bar"]),
        ("an,embedding:foo", []),
        (r"embedding:foo\(1\)", ["foo(1)"]),
    ],
)
def test_the_embeddings_of_a_prompt(prompt, names):
    """Names as ComfyUI reads them; one in the middle of a word is text."""
    assert embeddings(prompt) == list(dict.fromkeys(names))


def test_segments_have_weights():
    """Brackets without a number weigh a tenth more; a number replaces what is around it."""
    assert segments(r"a (b (c:0.5) d) \(e\)") == [
        Segment("a ", 1.0),
        Segment("b ", 1.1),
        Segment("c", 0.5),
        Segment(" d", 1.1),
        Segment(" (e)", 1.0),
    ]


@given(prompts)
def test_any_prompt_has_faults_or_segments(prompt):
    """Nothing is raised; without a fault, all embeddings have a name."""
    if not faults(prompt):
        assert all(embeddings(prompt))


@given(st.text(max_size=200))
def test_any_text_is_read(text):
    """Whatever the characters, reading a prompt raises nothing."""
    faults(text)


@pytest.mark.parametrize("prompt", ["(" * 2000 + ")" * 2000, "(a" * 1333 + ")" * 1333, "()" * 2000, "((a)" * 1000])
def test_the_longest_prompts_are_read_in_bounded_time(prompt):
    """4000 characters of brackets do not hold up the server."""
    before_s = time.process_time()
    faults(prompt)
    assert time.process_time() - before_s < 1
