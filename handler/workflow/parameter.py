"""One public field of a request: which values it accepts, and what is wrong with any other."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.validators import extend

from handler.workflow import input_image, prompt_syntax
from handler.workflow.wording import in_words, shown

INTEGER_BITS = 64
PROMPT_FORMAT = "prompt"  # JSON Schema's `format` of text that ComfyUI parses


@dataclass(frozen=True)
class Checks:
    """What only the worker knows about values.

    Attributes:
        embedding_fault: returns what is wrong with an embedding that a prompt names, or None.
        image_fault: returns what is wrong with a picture, or None.
    """

    embedding_fault: Callable[[str], str | None] = lambda _: None
    image_fault: Callable[[str], str | None] = lambda _: None


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
    """Returns whether JSON Schema calls it an integer: 20.0 is one, true is not."""
    if isinstance(value, float):
        return value.is_integer()
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
class Parameter:
    """One public field of a request.

    Attributes:
        name: the field's name.
        node: title of the node that it sets; None if it is not an input of the graph.
        input: the node's input; None if it is not an input of the graph.
        schema: JSON Schema of the value.
        required: whether a request must have it; if not, null means the default, which is the graph's literal.
        random: whether the default is a random value instead.
        any_size: whether true allows values of parameters with `crop` that are not multiples.
        crop: node's title and input that get such a value, while the parameter's own input gets the next multiple.
        count: whether it is the number of pictures to draw; the random values count up from one to the next.
        description: what it means, for callers.
        expected: which values are accepted, in words, if the schema's keywords do not say it.
        aliases: names that other services use for it; an unknown field of such a name is an error that suggests ours.
        default: the default, if it is not an input of the graph, or one that the output node may lack; else None.
        presets: the values of other parameters that each value of this one stands for.
    """

    name: str
    node: str | None
    input: str | None
    schema: Mapping[str, Any]
    required: bool = False
    random: bool = False
    count: bool = False
    any_size: bool = False
    crop: tuple[str, str] | None = None
    description: str = ""
    expected: str = ""
    aliases: tuple[str, ...] = ()
    default: Any = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def crop_name(self) -> str:
        """The name of the value for `crop`, which no request can have."""
        return f"{self.name}, cropped"

    @property
    def is_prompt(self) -> bool:
        """Whether it is text that ComfyUI parses."""
        return self.schema.get("format") == PROMPT_FORMAT

    @property
    def is_image(self) -> bool:
        """Whether it is a picture: base64 text, a data URL, or an https URL."""
        return self.schema.get("format") == input_image.IMAGE_FORMAT

    def with_any_size(self) -> Self:
        """Returns the parameter as it is if `any_size` is true: with `crop`, it accepts values between multiples."""
        if self.crop is None:
            return self
        return replace(self, schema={name: each for name, each in self.schema.items() if name != "multipleOf"})

    def values(self, value: Any) -> dict[str, Any]:
        """Returns what an accepted value sets, by name."""
        converted = self.converted(value)
        step = self.schema.get("multipleOf", 1)
        if self.crop is None or converted % step == 0:
            return {self.name: converted}
        return {self.name: -(-converted // step) * step, self.crop_name: converted}

    def accepts(self, value: object) -> bool:
        """Returns whether `value` may be set. Null, which means the default, is not a value."""
        if isinstance(value, int) and value.bit_length() > INTEGER_BITS:
            return False  # jsonschema would format it, and Python refuses to format an integer of over 4300 digits
        # The type is checked first: other keywords (multipleOf on an infinity) can raise on a wrong type.
        schemas = ({"type": self.schema["type"]}, self.schema)
        return all(Validator(schema).is_valid(value) for schema in schemas)

    def converted(self, value: Any) -> Any:
        """Returns an accepted value as the graph has it: 20.0 becomes 20, a data URL becomes its base64 text."""
        if self.is_image:
            return input_image.text_of(value)
        return int(value) if self.schema["type"] == "integer" else value

    def faults(self, value: Any, checks: Checks) -> list[str]:
        """Returns why `value` must not be set, one sentence each; an empty list if it may be."""
        if not self.accepts(value):
            return [f"{self.name} must be {self.expectation()}, got {shown(value)}{self._hint(value)}"]
        if self.is_image:
            fault = checks.image_fault(value)
            return [] if fault is None else [f"{self.name} {fault}"]
        if not self.is_prompt:
            return []
        if syntax := prompt_syntax.faults(value):
            return [f"{self.name} {fault}" for fault in syntax]
        named = [(name, checks.embedding_fault(name)) for name in prompt_syntax.embeddings(value)]
        return [f"{self.name} names the embedding {shown(name)}, which {fault}" for name, fault in named if fault]

    def expectation(self) -> str:
        """Returns which values are accepted, in words: "an integer from 0 to 10"."""
        return (self.expected or in_words(self.schema)) + (" or null" if self.random else "")

    def _hint(self, value: Any) -> str:
        """Returns what a caller probably wanted, as the end of a message; empty if that is not known."""
        if self.schema["type"] != "integer" or not Validator({"type": "integer"}).is_valid(value):
            return ""
        least, most, step = self.schema["minimum"], self.schema["maximum"], self.schema.get("multipleOf", 1)
        if self.random and value < least:
            return "; for a random value, send null or leave it out"
        if least < value < most and step > 1:
            below = int(value) // step * step
            return f"; the nearest are {max(least, below)} and {min(most, below + step)}"
        return ""
