"""The pictures part of `verify`: reference prompts, drawn one after another, and the same seed twice."""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handler.deadline import Deadline
from handler.errors import GenerationError, NotTransparent, WorkflowInvalid
from handler.job.generate import Generator
from handler.job.progress import JobProgress
from handler.settings import Settings
from handler.workflow.workflow import Workflow

WAIT = "comfyui_ready"  # a stage of every job; ComfyUI already runs when `verify` draws

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Reference:
    """A request that every report draws.

    Attributes:
        name: what it shows, for example "hair".
        request: a job's input.
    """

    name: str
    request: Mapping[str, Any]


@dataclass(frozen=True)
class Drawn:
    """The result of a reference request.

    Attributes:
        name: of the reference.
        request: a job's input.
        error: why the picture could not be drawn, or is not transparent; empty if it is.
        alpha: the picture's alpha statistics.
        seconds: by stage.
        sha256: of the PNG.
        png: the picture; empty if there is none.
    """

    name: str
    request: Mapping[str, Any]
    error: str = ""
    alpha: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    sha256: str = ""
    png: bytes = field(default=b"", repr=False)


def references(workflow: Workflow, settings: Settings) -> list[Reference]:
    """Returns the workflow's reference requests, in the sizes and words of its profile.

    Raises:
        WorkflowInvalid: the file is missing or malformed.
    """
    file = settings.workflows_dir / f"{workflow.name}.reference.json"
    try:
        entries = json.loads(file.read_text("utf-8"))
        return [
            Reference(entry["name"], {**entry["request"], **entry.get("profiles", {}).get(workflow.profile, {})})
            for entry in entries
        ]
    except OSError as exc:
        raise WorkflowInvalid(f"{file.name} cannot be read: {exc.strerror}") from exc
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise WorkflowInvalid(f"{file.name} is malformed: {type(exc).__name__} {exc}") from exc


def draw(reference: Reference, generator: Generator, settings: Settings, on_step: OnStep) -> Drawn:
    """Returns the reference's picture, or why there is none; the next one is not affected.

    Args:
        generator: with ALPHA_CHECK=accept, so that a picture that is not transparent can be looked at.
    """

    def show(progress: JobProgress) -> None:
        if progress.steps:
            on_step(progress.step, progress.steps)

    try:
        request = generator.parse(reference.request)
        picture = generator.generate(request, Deadline(settings.job_timeout_s), show)
    except GenerationError as exc:
        return Drawn(reference.name, reference.request, error=str(exc))
    check = picture.info["alpha_check"]
    return Drawn(
        reference.name,
        reference.request,
        error="" if check["passed"] else f"{NotTransparent.code}: {check['reason']}",
        alpha=picture.info["alpha"],
        seconds=picture.info["seconds"],
        sha256=hashlib.sha256(picture.encoded).hexdigest(),
        png=picture.encoded,
    )


def median_seconds(drawn: Sequence[Drawn], size: tuple[int, int], workflow: Workflow) -> dict[str, float]:
    """Returns the median seconds of each stage, over the pictures of one size in pixels; empty if there are none."""
    chosen = [
        picture.seconds
        for picture in drawn
        if picture.seconds and workflow.size(workflow.render(picture.request)) == size
    ]
    stages = [stage for stage in dict.fromkeys(stage for seconds in chosen for stage in seconds) if stage != WAIT]
    stages.sort(key=lambda stage: stage == "total")
    return {stage: round(statistics.median(seconds.get(stage, 0.0) for seconds in chosen), 4) for stage in stages}


def reloaded(workflow: Workflow, drawn: Sequence[Drawn]) -> list[str]:
    """Returns the titles of nodes that depend on nothing in a request, and yet ran in one of these later jobs."""
    set_by_callers = {parameter.node for parameter in workflow.parameters}
    loaders = {
        workflow.titles[node_id]
        for node_id, node in workflow.render({}).items()
        if not any(isinstance(value, list) for value in node["inputs"].values())
    }
    return sorted({stage for picture in drawn for stage in picture.seconds} & (loaders - set_by_callers))
