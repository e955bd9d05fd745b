"""JSON values, and the values that a schema accepts, in words for messages."""

import json
from collections.abc import Mapping
from typing import Any

SHOWN_CHARACTERS = 40
LARGEST_SHOWN_INTEGER = 10**SHOWN_CHARACTERS
NOT_BLANK = r"\S"  # JSON Schema's `pattern`


def in_words(schema: Mapping[str, Any]) -> str:
    """Returns which values a schema accepts: "an integer from 0 to 10"."""
    match schema:
        case {"enum": [*values]}:
            return f"one of {', '.join(map(shown, values))}"
        case {"type": "boolean"}:
            return "true or false"
        case {"type": "string"}:
            words = f"a string of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
            return words + (", not blank" if schema.get("pattern") == NOT_BLANK else "")
    article = "an integer" if schema["type"] == "integer" else "a number"
    words = f"{article} from {schema['minimum']} to {schema['maximum']}"
    return words + (f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else "")


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
