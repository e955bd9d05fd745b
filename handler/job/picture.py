"""A finished picture, and what is known about it."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
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
class PictureFacts:
    """All that a reply says about a picture, without the pixels.

    Attributes:
        filename, random_values, info: as in Picture.
        url: the picture's URL in a bucket; None if it is in none, and the caller needs the pixels themselves.
    """

    filename: str
    random_values: Mapping[str, Any]
    info: Mapping[str, Any]
    url: str | None = None

    @classmethod
    def of(cls, picture: Picture, url: str | None) -> Self:
        """Returns what is known about a picture that was made."""
        return cls(picture.filename, dict(picture.random_values), dict(picture.info), url)


@dataclass(frozen=True)
class MissingPicture:
    """A picture that a job was asked for and does not have.

    Attributes:
        random_values: what it would have been drawn with.
        error: "code: message".
    """

    random_values: Mapping[str, Any]
    error: str


@dataclass(frozen=True)
class Outcome:
    """How a successful job ended.

    Attributes:
        pictures: those that were made, at least one.
        missing: those that were not.
        is_list: whether the reply lists all pictures, because the request set their number.
    """

    pictures: tuple[PictureFacts, ...]
    missing: tuple[MissingPicture, ...] = ()
    is_list: bool = False

    @property
    def first(self) -> PictureFacts:
        """The picture that the single-picture fields of a reply are about."""
        return self.pictures[0]


def new_filename(suffix: str) -> str:
    """Returns a name for a picture that was made now; its random part makes it unique."""
    return f"alpha_{int(time.time())}_{secrets.token_hex(3)}.{suffix}"


def stage_seconds(workflow: Workflow, run: Run, waited_s: float, started_s: float) -> Mapping[str, float]:
    """Returns the seconds of waiting for ComfyUI, of each node by its title, and of the whole job."""
    nodes = {workflow.titles[node]: node_s for node, node_s in run.seconds.items()}
    seconds = {"comfyui_ready": waited_s, **nodes, "total": time.monotonic() - started_s}
    return {stage: round(value, 4) for stage, value in seconds.items()}
