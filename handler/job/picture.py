"""A finished picture, and what is known about it."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from handler.comfyui.run import Run
from handler.workflow.workflow import Workflow


@dataclass(frozen=True)
class Picture:
    """A checked picture.

    Attributes:
        encoded: 8-bit RGBA as PNG or lossless WebP.
        filename: `alpha_<unix seconds>_<6 hex digits>.png`, or `.webp`.
        random_values: the random parameters of the request (the seed) with the values that were used.
        info: how the picture was made; JSON values.
    """

    encoded: bytes
    filename: str
    random_values: Mapping[str, Any]
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a successful job ended: all that a reply says about its picture, without the pixels.

    Attributes:
        filename, random_values, info: as in Picture.
        url: the picture's URL in a bucket; None if it is in none, and the caller needs the pixels themselves.
    """

    filename: str
    random_values: Mapping[str, Any]
    info: Mapping[str, Any]
    url: str | None

    @classmethod
    def of(cls, picture: Picture, url: str | None) -> Self:
        """Returns the outcome of a job that made this picture."""
        return cls(picture.filename, dict(picture.random_values), dict(picture.info), url)

    def to_json(self) -> dict[str, Any]:
        """Returns the outcome as JSON values, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Returns the outcome that `to_json` described; before 0.2.0, `random_values` was stored as `drawn`."""
        renamed = {"random_values" if name == "drawn" else name: value for name, value in stored.items()}
        return cls(**renamed)


def new_filename(suffix: str) -> str:
    """Returns a name for a picture that was made now; its random part makes it unique."""
    return f"alpha_{int(time.time())}_{secrets.token_hex(3)}.{suffix}"


def stage_seconds(workflow: Workflow, run: Run, waited_s: float, started_s: float) -> Mapping[str, float]:
    """Returns the seconds of waiting for ComfyUI, of each node by its title, and of the whole job."""
    nodes = {workflow.titles[node]: node_s for node, node_s in run.seconds.items()}
    seconds = {"comfyui_ready": waited_s, **nodes, "total": time.monotonic() - started_s}
    return {stage: round(value, 4) for stage, value in seconds.items()}
