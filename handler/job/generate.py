"""One job from request to checked picture."""

import logging
import secrets
import time
from dataclasses import asdict
from typing import Any

import handler
from handler.comfyui.client import ComfyClient, OnProgress
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import ComfyUnavailable, GenerationError, ModelMissing, NotTransparent
from handler.job.png import alpha_of, check_png
from handler.job.profiles import missing_models
from handler.job.reply import Generated
from handler.settings import Settings
from handler.weights import locate
from handler.workflow.parameters import validate
from handler.workflow.workflow import Workflow

log = logging.getLogger(__name__)


class Generator:
    """Runs the stored workflow on ComfyUI. Safe to use from several threads.

    Attributes:
        comfyui: the process that it runs on.
    """

    def __init__(self, workflow: Workflow, comfyui: ComfyProcess, settings: Settings) -> None:
        self._workflow = workflow
        self.comfyui = comfyui
        self._settings = settings

    def check(self, raw: object) -> None:
        """Raises InvalidInput where `generate` would."""
        validate(raw, self._workflow.parameters)

    def input_schema(self) -> dict[str, Any]:
        """Returns the JSON Schema of what `generate` takes."""
        return self._workflow.input_schema()

    def start(self) -> None:
        """Starts ComfyUI and waits until it is ready.

        Raises:
            ComfyUnavailable: it does not start.
        """
        self.comfyui.client(Deadline(self._settings.start_timeout_s))

    def prepare(self) -> None:
        """Makes the first job as fast as the next: starts ComfyUI and, with WARM_UP, loads the models.

        Raises:
            GenerationError: it does not start, or the workflow does not run.
        """
        for file in self._workflow.models:
            log.info("weights", extra={"file": str(file), "from": str(locate.find(file, self._settings))})
        self.start()
        if self._settings.warm_up:
            self.warm_up()

    def warm_up(self) -> None:
        """Runs the workflow once in small, so that the first job finds models loaded and kernels chosen.

        Raises:
            GenerationError: the workflow does not run.
        """
        started_s = time.monotonic()
        try:
            self.generate(self._workflow.warm_up)
        except NotTransparent:
            log.debug("so few steps may give an opaque picture")
        log.info("warm", extra={"seconds": round(time.monotonic() - started_s, 3)})

    def generate(
        self, raw: object, deadline: Deadline | None = None, on_progress: OnProgress | None = None
    ) -> Generated:
        """Returns the picture that `raw` asks for.

        Args:
            raw: a job's input, as it came.
            deadline: JOB_TIMEOUT_S from now where there is none.
            on_progress: called with the run after each message of ComfyUI.

        Raises:
            GenerationError: of the kind that applies; the next job works.
        """
        started_s = time.monotonic()
        deadline = deadline or Deadline(self._settings.job_timeout_s)
        workflow = self._workflow
        values = validate(raw, workflow.parameters)
        drawn = {
            parameter.name: values.get(parameter.name, secrets.randbelow(parameter.schema["maximum"] + 1))
            for parameter in workflow.parameters
            if parameter.random
        }
        graph = workflow.render(values | drawn)
        if missing := missing_models(workflow, self._settings):
            raise ModelMissing(f"{' and '.join(map(str, missing))} missing")
        client = self.comfyui.client(deadline)
        ready_s = time.monotonic()
        try:
            run = client.run(graph, workflow.output_node, deadline, on_progress)
        except GenerationError as exc:
            self._recover(client, exc)
            raise
        png, output = run.result()
        check_png(png, *workflow.size(graph))
        alpha = alpha_of(output)
        seconds = {
            "comfyui_ready": ready_s - started_s,
            **{workflow.titles[node]: seconds for node, seconds in run.seconds.items()},
            "total": time.monotonic() - started_s,
        }
        info = {
            **workflow.info(graph),
            "workflow": workflow.name,
            "profile": workflow.profile,
            "alpha": asdict(alpha),
            "versions": {"layerdiffuse_alpha": handler.__version__, **client.versions},
            "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
        }
        return Generated(png, _filename(), drawn, info)

    def _recover(self, client: ComfyClient, exc: GenerationError) -> None:
        """Starts ComfyUI again where it is gone or does not let go of a run, so that the next job finds it."""
        if client.is_stuck or isinstance(exc, ComfyUnavailable):
            log.warning("ComfyUI is started again", extra={"because": exc.code})
            self.comfyui.restart(client)


def _filename() -> str:
    return f"alpha_{int(time.time())}_{secrets.token_hex(3)}.png"
