"""A request's fields by the names of options and columns: the field's own name, or one of its aliases."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.cli.terminal import EXIT_USAGE, fail
from handler.workflow import input_image
from handler.workflow.parameter import Parameter

SIZE = "size"
TRUTHS = {"true": True, "false": False}


class Fields:
    """What the stored workflow calls the options and columns, and which kinds of values they have."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        aliases = {alias: parameter for parameter in parameters for alias in parameter.aliases}
        self._parameters = aliases | {parameter.name: parameter for parameter in parameters}

    def request(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields of a request.

        Args:
            named: values by name; None is left out, and text becomes a number or a truth value if the field is one.
                A size may be a name or 1024x768, a picture a file. An unknown name stays, for the check of the request
                to report.

        Raises:
            CommandFailed: the file of a picture cannot be read.
        """
        fields: dict[str, Any] = {}
        for name, value in named.items():
            if value is None:
                continue
            parameter = self._parameters.get(name)
            if parameter is None:
                fields[name] = value
            elif parameter.name == SIZE and (pixels := _pixels(value)):
                fields |= pixels
            elif parameter.is_image:
                fields[parameter.name] = _picture(str(value))
            else:
                fields[parameter.name] = _converted(value, parameter.schema["type"])
        return fields


def _pixels(size: str) -> dict[str, int]:
    width, _, height = size.lower().partition("x")
    return {"width": int(width), "height": int(height)} if width.isdecimal() and height.isdecimal() else {}


def _picture(value: str) -> str:
    """Returns a URL as it is, and what is in a file as base64."""
    if input_image.is_url(value) or input_image.is_data_url(value):
        return value
    try:
        return base64.b64encode(Path(value).read_bytes()).decode()
    except OSError as exc:
        fail(f"{value} cannot be read: {exc.strerror}", EXIT_USAGE)


def _converted(value: Any, kind: str) -> Any:
    """Returns the value that the text means, or the text if it means none."""
    if not isinstance(value, str):
        return value
    match kind:
        case "boolean":
            return TRUTHS.get(value.lower(), value)
        case "integer" | "number":
            for number in (int, float):
                try:
                    return number(value)
                except ValueError:
                    continue
    return value
