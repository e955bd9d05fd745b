"""What must succeed before a worker takes a job: the fitness checks, of which the last is the warm-up."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from handler.comfyui.machine import on_cpu
from handler.deadline import Deadline
from handler.errors import BadPicture, ComfyCrashed, NodeFailed, NotTransparent
from handler.job import fitness
from handler.job.generate import Generator
from handler.job.picture import Picture
from handler.weights import locate

log = logging.getLogger(__name__)


def fitness_checks(generator: Generator) -> dict[str, Callable[[], None]]:
    """Returns the checks that must pass before a job is taken, by name, cheapest first; each raises GenerationError."""
    return {
        "check_gpu": generator.check_gpu,
        "check_weights": partial(_check_weights, generator),
        "check_disk": fitness.check_disk,
        "start": generator.start,
        "warm_up": partial(warm_up, generator),
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


def warm_up(generator: Generator) -> None:
    """Draws WARM_UP's picture, unless it is off.

    Raises:
        GenerationError: there is no picture, or it must be transparent and is not.
    """
    mode = generator.settings.warm_up
    if mode == "auto":
        mode = "fast" if on_cpu(generator.settings) else "full"
    if mode != "off":
        first_picture(generator, mode)


def first_picture(generator: Generator, mode: Literal["full", "fast"]) -> Picture | None:
    """Returns the workflow's warm-up picture; the next job then finds models loaded and kernels chosen.

    If it fails with xformers, it is repeated with PyTorch's attention.

    Args:
        generator: draws it.
        mode: "full": the picture must be transparent; "fast": it has one step, and is None if it is not.

    Raises:
        GenerationError: there is no picture, or the full one is not transparent.
    """
    try:
        return _first_picture(generator, mode)
    except (NodeFailed, BadPicture, NotTransparent, ComfyCrashed) as exc:
        if not generator.comfyui.avoid_xformers(str(exc)):
            raise
        log.warning("repeating the warm-up with PyTorch's attention", extra={"reason": str(exc)})
        return _first_picture(generator, mode)


def _first_picture(generator: Generator, mode: Literal["full", "fast"]) -> Picture | None:
    started_s = time.monotonic()
    fields: dict[str, Any] = {"mode": mode}
    picture = None
    try:
        picture = generator.generate(generator.workflow.warm_up[mode], Deadline(generator.settings.job_timeout_s))
    except NotTransparent as exc:
        if mode == "full":
            raise
        log.debug("fast warm-up's picture is not transparent", extra={"reason": exc.message})
    else:
        fields |= {"alpha": picture.info["alpha"], "stages": picture.info["seconds"]}
        if mode == "full" and "reason" in picture.info["alpha_check"]:  # ALPHA_CHECK=accept is about jobs
            raise NotTransparent(picture.info["alpha_check"]["reason"])
    log.info("warm-up finished", extra={**fields, "seconds": round(time.monotonic() - started_s, 3)})
    return picture
