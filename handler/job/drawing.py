"""The picture that is being drawn."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic

from handler.comfyui.recovery import Attempts
from handler.comfyui.run import Run
from handler.deadline import Deadline
from handler.job.progress import JobProgress, OnProgress, Stage
from handler.job.seeds import Draw
from handler.workflow.parameters import Request
from handler.workflow.workflow import Workflow

OnRun = Callable[[Run], None]


@dataclass(frozen=True)
class PlannedPicture:
    """A picture to draw.

    Attributes:
        workflow: what it is drawn with, also if the generator uses another one by then.
        request: the request that asks for it, and maybe for others.
        random: its random values.
        image: which picture of the request it is, from 1.
    """

    workflow: Workflow
    request: Request
    random: Draw
    image: int = 1


@dataclass
class Drawing:
    """A picture that is being drawn.

    Attributes:
        planned: what is drawn.
        deadline: when to give up.
        on_progress: called with each change of `progress`; or None.
        on_run: called with the run after each message of ComfyUI; or None.
        attempts: how often it was tried.
        started_s: when it began, on the monotonic clock.
        progress: how far it is.
    """

    planned: PlannedPicture
    deadline: Deadline
    on_progress: OnProgress | None = None
    on_run: OnRun | None = None
    attempts: Attempts = field(init=False)
    started_s: float = field(default_factory=monotonic, init=False)
    progress: JobProgress = field(init=False)

    def __post_init__(self) -> None:
        request = self.planned.request
        self.attempts = Attempts(request)
        self.progress = JobProgress(Stage.QUEUED, image=self.planned.image, images=request.number or 1)

    def begin(self, stage: Stage) -> None:
        """Begins an attempt, with no steps done."""
        self._show(replace(self.progress, stage=stage, step=0, steps=0))

    def follow(self, run: Run) -> None:
        """Looks at the run after a message of ComfyUI."""
        self._show(self.progress.after(run, self.planned.workflow.samplers))
        if self.on_run is not None:
            self.on_run(run)

    def _show(self, progress: JobProgress) -> None:
        if progress != self.progress:
            self.progress = progress
            if self.on_progress is not None:
                self.on_progress(progress)
