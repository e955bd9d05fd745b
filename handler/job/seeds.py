"""The random parameters of a request, such as its seed: what the caller set, else random numbers."""

import secrets
from collections.abc import Mapping, Sequence

from handler.workflow.parameter import Parameter
from handler.workflow.parameters import Request

Values = dict[str, int]


def of(request: Request, parameters: Sequence[Parameter]) -> Values:
    """Returns the random parameters with the request's values, or random ones."""
    return {
        parameter.name: request.values.get(parameter.name, secrets.randbelow(parameter.schema["maximum"] + 1))
        for parameter in parameters
        if parameter.random
    }


def following(values: Mapping[str, int], request: Request, parameters: Sequence[Parameter]) -> Values | None:
    """Returns the next values, one more for each that the caller did not set; None if the caller set all of them."""
    free = [each for each in parameters if each.random and each.name not in request.values]
    new = {each.name: (values[each.name] + 1) % (each.schema["maximum"] + 1) for each in free}
    return {**values, **new} if new else None


def listed(values: Mapping[str, int]) -> str:
    """Returns the values in words: "seed 42"."""
    return ", ".join(f"{name} {value}" for name, value in values.items())
