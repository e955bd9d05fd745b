"""How far a job is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from handler.comfyui.run import Run


class Stage(StrEnum):
    """What is happening to a job."""

    QUEUED = "queued"
    STARTING = "starting"  # ComfyUI starts
    LOADING = "loading"  # models are loaded, and the prompt is read
    SAMPLING = "sampling"
    DECODING = "decoding"
    ENCODING = "encoding"
    DONE = "done"


@dataclass(frozen=True)
class JobProgress:
    """How far a job on the worker is.

    Attributes:
        stage: what is happening.
        step: the sampler's last step of this picture; 0 before the first.
        steps: how many there are; 0 before the first.
        image: which picture is drawn, from 1.
        images: how many the job draws.
    """

    stage: Stage
    step: int = 0
    steps: int = 0
    image: int = 1
    images: int = 1

    def after(self, run: Run) -> Self:
        """Returns the progress after a message of ComfyUI."""
        if run.node is None:
            return self
        if run.node == run.output_node:
            return replace(self, stage=Stage.ENCODING)
        if run.progress is not None:
            return replace(self, stage=Stage.SAMPLING, step=run.progress.value, steps=run.progress.maximum)
        return replace(self, stage=Stage.DECODING if self.steps else Stage.LOADING)


OnProgress = Callable[[JobProgress], None]
