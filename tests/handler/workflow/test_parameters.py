import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.errors import MESSAGE_CHARACTERS, InvalidInput
from handler.workflow.parameter import Checks, Parameter
from handler.workflow.parameters import parse
from handler.workflow.wording import shown

PARAMETERS = (
    Parameter("prompt", "P", "text", {"type": "string", "minLength": 1, "maxLength": 10}, required=True),
    Parameter("seed", "S", "seed", {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}, random=True),
    Parameter("width", "W", "width", {"type": "integer", "minimum": 64, "maximum": 512, "multipleOf": 64}),
    Parameter("scale", "C", "cfg", {"type": "number", "minimum": 1, "maximum": 20}, aliases=("steps", "cfg_scale")),
    Parameter(
        *("size", None, None, {"type": "string", "enum": ["wide", "square"]}),
        presets={"wide": {"width": 512, "height": 64}, "square": {"width": 64, "height": 64}},
    ),
)

PROMPTS = (
    Parameter("prompt", "P", "text", {"type": "string", "format": "prompt", "pattern": r"\S", "maxLength": 99}, True),
    Parameter("negative", "N", "text", {"type": "string", "format": "prompt", "maxLength": 99}),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=9), children, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": "x"},
        {"prompt": "0123456789"},
        {"prompt": "ü漢🍎"},
        {"prompt": "x", "seed": 0},
        {"prompt": "x", "seed": 2**53 - 1},
        {"prompt": "x", "width": 64, "scale": 1},
        {"prompt": "x", "width": 512, "scale": 20.0},
    ],
)
def test_accepts(raw):
    """Values on and within the bounds are returned unchanged."""
    assert parse(raw, PARAMETERS).values == raw


def test_null_of_an_optional_parameter_is_absence():
    """Null means the default, or a random value for the seed."""
    assert parse({"prompt": "x", "seed": None, "width": None, "size": None}, PARAMETERS).values == {"prompt": "x"}


def test_a_whole_number_is_an_integer():
    """As in JSON Schema, 128.0 is an integer; the graph receives an int."""
    values = parse({"prompt": "x", "width": 128.0, "seed": 1.0}, PARAMETERS).values
    assert values == {"prompt": "x", "width": 128, "seed": 1}
    assert [type(values[name]) for name in ("width", "seed")] == [int, int]


def test_a_size_by_name_sets_width_and_height():
    """A width that is set as well is used instead."""
    assert parse({"prompt": "x", "size": "wide"}, PARAMETERS).values == {"prompt": "x", "width": 512, "height": 64}
    assert parse({"width": 64, "prompt": "x", "size": "wide"}, PARAMETERS).values["width"] == 64


@pytest.mark.parametrize(
    ("field", "meant"),
    [("steps", "scale"), ("CFG-Scale", "scale"), ("promt", "prompt"), ("Width", "width"), ("widht", "width")],
)
def test_an_unknown_field_suggests_ours(field, meant):
    """Other services' spellings and typing errors."""
    with pytest.raises(InvalidInput) as caught:
        parse({"prompt": "x", field: 1}, PARAMETERS)
    assert caught.value.details == (f"unknown field {shown(field)}, did you mean {meant}?",)


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("seed", -1, "got -1; for a random value, send null or leave it out"),
        ("width", 100, "got 100; the nearest are 64 and 128"),
        ("width", 511.0, "got 511.0; the nearest are 448 and 512"),
        ("width", 600, "got 600"),
        ("size", "big", 'size must be one of "wide", "square", got "big"'),
    ],
)
def test_a_message_says_what_to_send_instead(field, value, hint):
    """The end of the message."""
    with pytest.raises(InvalidInput) as caught:
        parse({"prompt": "x", field: value}, PARAMETERS)
    assert caught.value.message.endswith(hint)


@pytest.mark.parametrize(
    ("field", "value", "got"),
    [
        ("prompt", "", '""'),
        ("prompt", "01234567890", '"01234567890"'),
        ("prompt", 7, "7"),
        ("prompt", None, "null"),
        ("prompt", ["x"], "an array"),
        ("prompt", "\ud800", '"\\ud800"'),
        ("seed", True, "true"),
        ("seed", 2**53, "9007199254740992"),
        ("seed", 1.5, "1.5"),
        ("seed", "42", '"42"'),
        pytest.param("seed", 10**5000, "an integer of 16610 bits", id="huge"),
        ("width", 576, "576"),
        ("width", math.inf, "Infinity"),
        ("scale", 0.99, "0.99"),
        ("scale", math.nan, "NaN"),
        ("scale", math.inf, "Infinity"),
        ("scale", True, "true"),
        ("scale", {}, "an object"),
    ],
)
def test_rejects(field, value, got):
    """A value of the wrong range or type is one fault with the field, the expectation and the value."""
    with pytest.raises(InvalidInput) as caught:
        parse({"prompt": "x", field: value}, PARAMETERS)
    (fault,) = caught.value.details
    assert fault.startswith(f"{field} must be ")
    assert fault.endswith(f", got {got}")


def test_message_says_what_is_expected():
    """The message of a fault states type and bounds."""
    with pytest.raises(InvalidInput) as caught:
        parse({"prompt": "", "seed": "42", "width": 1}, PARAMETERS)
    assert caught.value.message == (
        'prompt must be a string of 1 to 10 characters, got ""; '
        'seed must be an integer from 0 to 9007199254740991 or null, got "42"; '
        "width must be an integer from 64 to 512, a multiple of 64, got 1"
    )


def test_reports_every_fault_at_once():
    """A missing, a mistyped and an unknown field are three faults of one error."""
    with pytest.raises(InvalidInput) as caught:
        parse({"seed": True, "steps": 3}, PARAMETERS)
    assert [fault.split()[0] for fault in caught.value.details] == ["prompt", "seed", "unknown"]


@pytest.mark.parametrize("raw", [None, [], "x", 3, True])
def test_input_must_be_an_object(raw):
    """Anything other than an object is rejected."""
    with pytest.raises(InvalidInput, match="input must be an object, got"):
        parse(raw, PARAMETERS)


def test_a_flood_of_faults_stays_readable():
    """A thousand long unknown fields make a bounded message."""
    with pytest.raises(InvalidInput) as caught:
        parse({"x" * 1000 + str(n): n for n in range(1000)}, PARAMETERS)
    assert len(caught.value.message) <= MESSAGE_CHARACTERS
    assert caught.value.details[-1] == "and 989 more"


def outcome(raw):
    """Returns the values of a request, or the error text."""
    try:
        return parse(raw, PARAMETERS).values
    except InvalidInput as exc:
        return str(exc)


@given(json_values)
def test_any_json_is_accepted_or_refused_as_invalid_input(raw):
    """For any JSON value, only InvalidInput is raised, and its text is valid Unicode."""
    found = outcome(raw)
    assert json.loads(json.dumps(found, ensure_ascii=False).encode()) == found


@given(st.sampled_from([p.name for p in PARAMETERS]), json_values)
def test_any_value_of_a_field_is_accepted_or_refused_as_invalid_input(field, value):
    """Accepted values are returned unchanged; all others are rejected with the field's name."""
    found = outcome({"prompt": "x", field: value})
    if isinstance(found, dict):
        assert field == "size" or found.get(field) == value
    else:
        assert found.startswith(f"invalid_input: {field} must be")


@given(json_values)
def test_shown_is_short_and_encodable_after_presentation(value):
    """Any JSON value has a rendering of bounded length."""
    assert len(shown(value)) < 400


@pytest.mark.parametrize("prompt", [" ", "\t\n", "\u3000"])
def test_a_blank_prompt_is_refused_where_text_is_needed(prompt):
    """A blank prompt is rejected; a negative prompt may be blank or empty."""
    with pytest.raises(InvalidInput, match="prompt must be a string of 0 to 99 characters, not blank"):
        parse({"prompt": prompt}, PROMPTS)
    assert parse({"prompt": "x", "negative": prompt}, PROMPTS).values["negative"] == prompt


def test_every_fault_of_both_prompts_is_reported():
    """Syntax and embeddings of each prompt, together with the other faults."""
    with pytest.raises(InvalidInput) as caught:
        parse(
            {"prompt": "(x:nan)", "negative": "embedding:foo (embedding:bar:1.1)", "steps": 1},
            PROMPTS,
            Checks({"foo": None, "bar": "does not exist"}.get),
        )
    assert caught.value.details == (
        'prompt has the weight nan for "x", expected -100 to 100',
        'negative names the embedding "bar", which does not exist',
        'unknown field "steps", expected prompt, negative',
    )


def test_text_other_than_a_prompt_is_not_parsed():
    """Only what ComfyUI parses is checked for its syntax."""
    assert parse({"prompt": "(x:nan)"}, PARAMETERS).values == {"prompt": "(x:nan)"}


ANY_SIZE = (
    Parameter("free", None, None, {"type": "boolean"}, any_size=True),
    Parameter("width", "W", "width", PARAMETERS[2].schema, crop=("Out", "crop_width")),
    Parameter("steps", "S", "steps", {"type": "integer", "minimum": 1, "maximum": 60, "multipleOf": 10}),
)


@pytest.mark.parametrize(("sent", "drawn"), [(100, 128), (449, 512), (511.0, 512), (65, 128)])
def test_any_size_is_drawn_at_the_next_multiple(sent, drawn):
    """And cropped to what was sent."""
    values = parse({"free": True, "width": sent}, ANY_SIZE).values
    assert values == {"free": True, "width": drawn, ANY_SIZE[1].crop_name: sent}


@pytest.mark.parametrize("raw", [{"free": True, "width": 128}, {"free": True}, {"free": False, "width": 64}])
def test_a_multiple_is_not_cropped(raw):
    """Nor is a size that was not sent."""
    assert parse(raw, ANY_SIZE).values == raw


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"width": 100}, "width"),
        ({"free": False, "width": 100}, "width"),
        ({"free": None, "width": 100}, "width"),
        ({"free": 1, "width": 100}, "free"),
        ({"free": True, "width": 63}, "width"),
        ({"free": True, "width": 513}, "width"),
        ({"free": True, "width": 100.5}, "width"),
        ({"free": True, "steps": 15}, "steps"),
        ({"width, cropped": 100}, "unknown field"),
    ],
)
def test_other_sizes_are_refused(raw, field):
    """Limits stay, and other multiples are not meant."""
    with pytest.raises(InvalidInput, match=f"^invalid_input: {field} "):
        parse(raw, ANY_SIZE)
