"""What must succeed before a worker takes a job: the fitness checks, of which the last is the warm-up."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from handler.comfyui.machine import memory_bytes, on_cpu
from handler.deadline import Deadline
from handler.errors import BadPicture, ComfyCrashed, NodeFailed, NotTransparent
from handler.job import fitness
from handler.job.drawing import Drawing, OnRun
from handler.job.generate import Generator
from handler.job.picture import Picture
from handler.job.start_times import StartTimes
from handler.weights import locate, read_ahead

log = logging.getLogger(__name__)


def begin(generator: Generator) -> None:
    """Starts ComfyUI and reads the weights ahead, without waiting for either."""
    generator.comfyui.begin()
    found = [locate.find(file, generator.settings) for file in generator.workflow.models]
    read_ahead.begin([each.path for each in found if each is not None], memory_bytes())


def fitness_checks(generator: Generator) -> dict[str, Callable[[], None]]:
    """Returns the checks that must pass before a job is taken, by name, cheapest first; each raises GenerationError."""
    start = StartTimes(generator.workflow)
    return {
        "check_gpu": generator.check_gpu,
        "check_weights": partial(_check_weights, generator),
        "check_disk": fitness.check_disk,
        "start": generator.start,
        "warm_up": partial(warm_up, generator, start),
    }


def prepare(generator: Generator) -> None:
    """Checks that this worker can draw, and makes the first job as fast as the next one.

    Raises:
        GenerationError: the reason why it cannot.
    """
    for check in fitness_checks(generator).values():
        check()


def _check_weights(generator: Generator) -> None:
    fitness.check_weights(generator.settings, generator.workflow)
    for file in generator.workflow.models:
        if found := locate.find(file, generator.settings):
            log.info("weights found", extra={"file": str(file), "path": str(found.path)})


def warm_up(generator: Generator, start: StartTimes) -> None:
    """Draws WARM_UP's picture, unless it is off, and logs how long the start took.

    Raises:
        GenerationError: the picture could not be drawn, or it is not transparent although it must be.
    """
    mode = generator.settings.warm_up
    if mode == "auto":
        mode = "fast" if on_cpu(generator.settings) else "full"
    if mode != "off":
        first_picture(generator, mode, start.follow)
    log.info("started", extra={"seconds": start.seconds(generator.comfyui.start_times_s())})


def first_picture(generator: Generator, mode: Literal["full", "fast"], on_run: OnRun | None = None) -> Picture:
    """Returns the workflow's warm-up picture; the next job then finds models loaded and kernels chosen.

    If it fails with xformers, it is repeated with PyTorch's attention.

    Args:
        generator: draws it.
        mode: "full": the picture must be transparent; "fast": it has one step, and may be opaque.
        on_run: called with the run after each message of ComfyUI.

    Raises:
        GenerationError: the picture could not be drawn, or the full one is not transparent.
    """
    try:
        return _first_picture(generator, mode, on_run)
    except (NodeFailed, BadPicture, NotTransparent, ComfyCrashed) as exc:
        if not generator.comfyui.avoid_xformers(str(exc)):
            raise
        log.warning("repeating the warm-up with PyTorch's attention", extra={"reason": str(exc)})
        return _first_picture(generator, mode, on_run)


def _first_picture(generator: Generator, mode: Literal["full", "fast"], on_run: OnRun | None) -> Picture:
    started_s = time.monotonic()
    planned = generator.plan(generator.workflow.warm_up[mode])[0]
    drawing = Drawing(planned, Deadline(generator.settings.job_timeout_s), on_run=on_run)
    picture, fault = generator.attempt(drawing, planned.random.values)
    if fault is not None and mode == "full":
        raise NotTransparent(fault)
    fields = {"mode": mode, "alpha": picture.info["alpha"], "stages": picture.info["seconds"]}
    log.info("warm-up finished", extra={**fields, "seconds": round(time.monotonic() - started_s, 3)})
    return picture
