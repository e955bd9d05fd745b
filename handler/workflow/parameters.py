"""What callers may set, checked against the workflow's params file; every fault is reported at once."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.validators import extend

from handler.errors import InvalidInput
from handler.workflow import prompt_syntax

SHOWN_CHARACTERS = 40
SHOWN_FAULTS = 12
LARGEST_SHOWN_INTEGER = 10**SHOWN_CHARACTERS
INTEGER_BITS = 64
PROMPT_FORMAT = "prompt"  # JSON Schema's `format` of text that ComfyUI parses
NOT_BLANK = r"\S"  # JSON Schema's `pattern`

EmbeddingFault = Callable[[str], str | None]


def _is_text(_: TypeChecker, value: object) -> bool:
    """Returns whether it is a string of valid Unicode: JSON can carry a lone surrogate, which cannot be encoded."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_integer(_: TypeChecker, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: TypeChecker, value: object) -> bool:
    return _is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"string": _is_text, "integer": _is_integer, "number": _is_number}
    ),
)


@dataclass(frozen=True)
class Request:
    """What a caller asks for.

    Attributes:
        values: checked values by parameter name. If a parameter is absent, its default applies.
    """

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One public field of a request.

    Attributes:
        name: the field's name.
        node: title of the node that it sets.
        input: the node's input.
        schema: JSON Schema of the value.
        required: whether a request must have it; if not, the graph's literal is the default.
        random: whether the default is a random value instead; the caller may also send null for it.
    """

    name: str
    node: str
    input: str
    schema: Mapping[str, Any]
    required: bool = False
    random: bool = False

    def accepts(self, value: object) -> bool:
        """Returns whether `value` may be set. The null of a random parameter is not a value."""
        if isinstance(value, int) and value.bit_length() > INTEGER_BITS:
            return False  # jsonschema would format it, and Python refuses to format an integer of over 4300 digits
        # The type is checked first: other keywords (multipleOf on an infinity) can raise on a wrong type.
        schemas = ({"type": self.schema["type"]}, self.schema)
        return all(Validator(schema).is_valid(value) for schema in schemas)

    def faults(self, value: Any, embedding_fault: EmbeddingFault) -> list[str]:
        """Returns why `value` must not be set, one sentence each; an empty list if it may be."""
        if not self.accepts(value):
            return [f"{self.name} must be {self.expectation()}, got {shown(value)}"]
        if self.schema.get("format") != PROMPT_FORMAT:
            return []
        if syntax := prompt_syntax.faults(value):
            return [f"{self.name} {fault}" for fault in syntax]
        named = [(name, embedding_fault(name)) for name in prompt_syntax.embeddings(value)]
        return [f"{self.name} names the embedding {shown(name)}, which {fault}" for name, fault in named if fault]

    def expectation(self) -> str:
        """Returns which values are accepted, in words: "an integer from 0 to 10"."""
        schema = self.schema
        if schema["type"] == "string":
            words = f"a string of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
            if schema.get("pattern") == NOT_BLANK:
                words += ", not blank"
        else:
            article = "an integer" if schema["type"] == "integer" else "a number"
            words = f"{article} from {schema['minimum']} to {schema['maximum']}"
            if "multipleOf" in schema:
                words += f", a multiple of {schema['multipleOf']}"
        return words + (" or null" if self.random else "")


def schema_of(parameters: Sequence[Parameter], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON Schema of a request; `defaults` has the defaults by parameter name."""
    properties = {parameter.name: dict(parameter.schema) for parameter in parameters}
    for parameter in parameters:
        if parameter.random:
            properties[parameter.name]["type"] = [parameter.schema["type"], "null"]
        if parameter.name in defaults:
            properties[parameter.name]["default"] = defaults[parameter.name]
    required = [parameter.name for parameter in parameters if parameter.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def parse(raw: object, parameters: Sequence[Parameter], embedding_fault: EmbeddingFault = lambda _: None) -> Request:
    """Returns the request that `raw` makes.

    Args:
        raw: the `input` of a job, as it came.
        parameters: what may be set.
        embedding_fault: returns what is wrong with an embedding that a prompt names, or None.

    Raises:
        InvalidInput: with every fault of `raw`.
    """
    if not isinstance(raw, dict):
        raise InvalidInput([f"input must be an object, got {shown(raw)}"])
    known = {parameter.name: parameter for parameter in parameters}
    faults = [f"{name} is required" for name, parameter in known.items() if parameter.required and name not in raw]
    values = {}
    for name, value in raw.items():
        parameter = known.get(name)
        if parameter is None:
            faults.append(f"unknown field {shown(name)}, expected {', '.join(known)}")
        elif value is None and parameter.random:
            continue
        elif found := parameter.faults(value, embedding_fault):
            faults += found
        else:
            values[name] = value
    if faults:
        more = len(faults) - SHOWN_FAULTS
        raise InvalidInput(faults[:SHOWN_FAULTS] + ([f"and {more} more"] if more > 0 else []))
    return Request(values)


def shown(value: object) -> str:
    """Returns a short rendering of a JSON value, whatever its size."""
    match value:
        case dict():
            return "an object"
        case list():
            return "an array"
        case str() if len(value) > SHOWN_CHARACTERS:
            return f"{json.dumps(value[:SHOWN_CHARACTERS], ensure_ascii=False)}… ({len(value)} characters)"
        case int() if abs(value) > LARGEST_SHOWN_INTEGER:
            return f"an integer of {value.bit_length()} bits"
        case _:
            return json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
