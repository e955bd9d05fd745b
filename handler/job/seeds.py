"""The random parameters of a request, such as its seed: what the caller set, else random numbers."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handler.workflow.parameter import Parameter
from handler.workflow.parameters import Request

Values = dict[str, int]


@dataclass(frozen=True)
class Draw:
    """The random parameters of one picture.

    Attributes:
        values: what it is drawn with.
        spare: what it is drawn with if the first picture is refused; None if the caller set all of them.
    """

    values: Values
    spare: Values | None


def draws(request: Request, parameters: Sequence[Parameter], first: Values | None = None) -> list[Draw]:
    """Returns the random parameters of each picture that the request asks for.

    They count up from those of the first picture. After the maximum comes 0.

    Args:
        request: what the caller set.
        parameters: those of the workflow.
        first: those of the first picture, if an earlier attempt chose them.
    """
    random = [parameter for parameter in parameters if parameter.random]
    chosen = {each.name: secrets.randbelow(_range(each)) for each in random} | (first or {})
    count = request.number or 1
    found = []
    for place in range(count):
        values = {
            each.name: (request.values.get(each.name, chosen[each.name]) + place) % _range(each) for each in random
        }
        spare = {
            each.name: (values[each.name] + count) % _range(each) for each in random if each.name not in request.values
        }
        found.append(Draw(values, {**values, **spare} if spare else None))
    return found


def listed(values: Mapping[str, int]) -> str:
    """Returns the values in words: "seed 42"."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _range(parameter: Parameter) -> int:
    return int(parameter.schema["maximum"]) + 1
