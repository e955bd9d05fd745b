"""How far a job is."""

from collections.abc import Callable, Set
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

    @property
    def is_nearly_done(self) -> bool:
        """Whether the last picture has been sampled."""
        return self.stage in {Stage.DECODING, Stage.ENCODING} and self.image == self.images

    def after(self, run: Run, samplers: Set[str]) -> Self:
        """Returns the progress after a message of ComfyUI; `samplers` are the graph's nodes that sample."""
        if run.node is None:
            return self
        if run.node == run.output_node:
            return replace(self, stage=Stage.ENCODING)
        if run.progress is not None:
            return replace(self, stage=Stage.SAMPLING, step=run.progress.value, steps=run.progress.maximum)
        if not self.steps:
            return replace(self, stage=Stage.LOADING)
        return self if samplers - run.seconds.keys() else replace(self, stage=Stage.DECODING)


OnProgress = Callable[[JobProgress], None]
