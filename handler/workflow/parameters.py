"""What callers may set, checked against the workflow's params file; every fault is reported at once."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handler.errors import InvalidInput
from handler.workflow.parameter import Checks, Parameter
from handler.workflow.wording import SHOWN_CHARACTERS, shown

SHOWN_FAULTS = 12
NO_CHECKS = Checks()
SIMILARITY = 0.8  # of a field's name and a misspelling of it, in difflib's measure


@dataclass(frozen=True)
class Request:
    """What a caller asks for.

    Attributes:
        values: checked values by parameter name. If a parameter is absent, its default applies.
        number: of pictures; None if the request does not say, which means one.
    """

    values: Mapping[str, Any]
    number: int | None = None


def schema_of(parameters: Sequence[Parameter], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON Schema of a request; `defaults` has the defaults by parameter name."""
    properties = {}
    for parameter in parameters:
        schema = dict(parameter.schema)
        if not parameter.required:
            schema["type"] = [schema["type"], "null"]
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        if parameter.description:
            schema["description"] = parameter.description
        if parameter.presets:
            schema["x-presets"] = parameter.presets
        if parameter.name in defaults:
            schema["default"] = defaults[parameter.name]
        properties[parameter.name] = schema
    required = [parameter.name for parameter in parameters if parameter.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def parse(raw: object, parameters: Sequence[Parameter], checks: Checks = NO_CHECKS) -> Request:
    """Returns the request that `raw` makes.

    Args:
        raw: the `input` of a job, as it came.
        parameters: what may be set.
        checks: what only the worker knows about values.

    Raises:
        InvalidInput: with every fault of `raw`.
    """
    if not isinstance(raw, dict):
        raise InvalidInput([f"input must be an object, got {shown(raw)}"])
    known = {parameter.name: parameter for parameter in parameters}
    faults = [f"{name} is required" for name, parameter in known.items() if parameter.required and name not in raw]
    any_size = any(each.any_size and raw.get(each.name) is True for each in parameters)
    values: dict[str, Any] = {}
    preset: dict[str, Any] = {}
    for name, value in raw.items():
        parameter = known.get(name)
        if parameter is None:
            hint = _suggestion(name, parameters) if len(faults) < SHOWN_FAULTS else ""
            faults.append(f"unknown field {shown(name)}, {hint or 'expected ' + ', '.join(known)}")
        elif value is None and not parameter.required:
            continue
        elif found := (parameter.with_any_size() if any_size else parameter).faults(value, checks):
            faults += found
        elif parameter.presets:
            preset |= parameter.presets[value]
        else:
            values |= parameter.values(value)
    if faults:
        more = len(faults) - SHOWN_FAULTS
        raise InvalidInput(faults[:SHOWN_FAULTS] + ([f"and {more} more"] if more > 0 else []))
    number = next((values[each.name] for each in parameters if each.count and each.name in values), None)
    return Request({**preset, **values}, number)


def _suggestion(name: str, parameters: Sequence[Parameter]) -> str:
    """Returns which field the caller probably means, as the end of a message; empty if that is not known."""
    aliases = {alias: parameter.name for parameter in parameters for alias in parameter.aliases}
    names = {**aliases, **{parameter.name: parameter.name for parameter in parameters}}
    plain = name[: SHOWN_CHARACTERS + 1].lower().replace("-", "_").replace(" ", "_")
    similar = [plain] if plain in names else difflib.get_close_matches(plain, names, 1, SIMILARITY)
    return f"did you mean {names[similar[0]]}?" if similar else ""
