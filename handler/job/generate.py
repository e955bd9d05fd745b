"""One job, from request to checked picture. Start reading here."""

import logging
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import handler
from handler.comfyui.client import ComfyClient
from handler.comfyui.machine import on_cpu
from handler.comfyui.process import ComfyProcess
from handler.comfyui.run import Run
from handler.deadline import Deadline
from handler.errors import (
    ComfyCrashed,
    ComfyUnavailable,
    GenerationError,
    InvalidInput,
    JobTimeout,
    ModelMissing,
    NodeFailed,
    NoGpu,
    NotTransparent,
    WorkflowRejected,
)
from handler.job import alpha_check, fitness, formats, image_check, seeds
from handler.job.drawing import Drawing, PlannedPicture
from handler.job.picture import Picture, new_filename, stage_seconds
from handler.job.progress import OnProgress, Stage
from handler.job.remote_image import RemoteImages
from handler.settings import Settings
from handler.weights import embeddings, locate
from handler.workflow.graph import Graph
from handler.workflow.parameter import Checks
from handler.workflow.parameters import Request
from handler.workflow.workflow import CHOICE, Workflow

log = logging.getLogger(__name__)


class Generator:
    """Runs the stored workflow on ComfyUI. Safe to use from several threads.

    Attributes:
        workflow: the stored workflow that it runs.
        comfyui: the process that it runs on.
        settings: this worker's.
    """

    def __init__(
        self, workflow: Workflow, comfyui: ComfyProcess, settings: Settings, images: RemoteImages | None = None
    ) -> None:
        """Takes what it runs and on what; `images` fetches input pictures, from public addresses by default."""
        self.workflow = workflow
        self.comfyui = comfyui
        self.settings = settings
        self._images = images or RemoteImages()
        self._gpu_checked = False

    def use(self, workflow: Workflow) -> None:
        """Draws the next jobs with another workflow; a job that is running keeps the one that it began with."""
        self.workflow = workflow

    def parse(self, raw: object) -> Request:
        """Returns the request that a job's input makes; raises InvalidInput with every fault."""
        return self.workflow.parse(raw, self._checks())

    def input_schema(self) -> dict[str, Any]:
        """Returns the JSON Schema of a job's input."""
        return self.workflow.input_schema()

    def input_schemas(self) -> dict[str, dict[str, Any]]:
        """Returns the JSON Schema of a job's input for each workflow that it can choose; the default comes first."""
        return self.workflow.input_schemas()

    def generate(self, request: Request, deadline: Deadline, on_progress: OnProgress | None = None) -> Picture:
        """Returns the picture that the request asks for, the first one if it asks for several; see `draw`."""
        return self.draw(self.plan(self.fetched(request, deadline))[0], deadline, on_progress)

    def fetched(self, request: Request, deadline: Deadline) -> Request:
        """Returns the request with the input pictures that it names by URL.

        Raises:
            InvalidInput: one cannot be fetched.
            JobTimeout, JobCancelled: by `deadline`.
        """
        workflow = self.workflow.named(request.values.get(CHOICE))
        return self._images.fetched(request, workflow.parameters, deadline)

    def plan(self, request: Request, first: seeds.Values | None = None) -> list[PlannedPicture]:
        """Returns the pictures that a fetched request asks for, for `draw`; at least one; `first` as in seeds.draws."""
        workflow = self.workflow.named(request.values.get(CHOICE))
        draws = seeds.draws(request, workflow.parameters, first)
        return [PlannedPicture(workflow, request, draw, image) for image, draw in enumerate(draws, 1)]

    def draw(self, planned: PlannedPicture, deadline: Deadline, on_progress: OnProgress | None = None) -> Picture:
        """Returns a picture.

        Args:
            planned: what to draw.
            deadline: when to give up.
            on_progress: called with each change.

        Raises:
            InvalidInput: an embedding has vanished.
            NotTransparent: the picture is opaque or empty, and ALPHA_CHECK does not accept that.
            GenerationError: the picture could not be drawn; the next job works.
        """
        self._check_machine(planned.workflow)
        self._check_embeddings(planned)
        drawing = Drawing(planned, deadline, on_progress)
        values, spare = planned.random.values, planned.random.spare
        picture, fault = self.attempt(drawing, values)
        refused: dict[str, Any] = {}
        if fault is not None and spare is not None and self.settings.alpha_check == "retry":
            log.warning("picture refused, drawing once more", extra={**values, "reason": fault})
            refused = {"refused": {**values, "reason": fault}}
            picture, fault = self.attempt(drawing, spare)
        if fault is not None and self.settings.alpha_check != "accept":
            before = f"; so was the picture before, with {seeds.listed(values)}" if refused else ""
            raise NotTransparent(fault + before)
        verdict = {"passed": fault is None, **({} if fault is None else {"reason": fault}), **refused}
        return replace(picture, info={**picture.info, "alpha_check": verdict})

    def attempt(self, drawing: Drawing, random_values: seeds.Values) -> tuple[Picture, str | None]:
        """Returns a picture, and why it is not a transparent one: None if it is. Raises like `draw` otherwise."""
        workflow = drawing.planned.workflow
        graph = workflow.render({**drawing.planned.request.values, **random_values})
        asked_s = time.monotonic()
        run, client, ready_s = self._draw(graph, drawing)
        encoded, report = run.result()
        drawn = workflow.size(graph) if workflow.keeps_size else None
        sent, box = alpha_check.kept(report)
        sent = sent or drawn or formats.size_of(encoded)
        width, height = drawn or sent
        alpha = alpha_check.alpha_of(report)
        info = {
            **workflow.info(graph) | {"width": width, "height": height},
            "workflow": workflow.name,
            "profile": workflow.profile,
            "device": client.device,
            "alpha": asdict(alpha),
            "picture": formats.checked(encoded, *sent) | ({} if box is None else {"box": box}),
            "versions": {"layerdiffuse_alpha": handler.__version__, **client.versions},
            "attempts": drawing.attempts.count,
            "seconds": stage_seconds(workflow, run, ready_s - asked_s, drawing.started_s),
        }
        filename = new_filename(formats.suffix_of(encoded))
        return Picture(encoded, filename, random_values, info), alpha_check.fault(alpha, width, height)

    def check_gpu(self) -> None:
        """Raises NoGpu if the profile needs a GPU and there is none that can be used."""
        fitness.check_gpu(self.settings, self.workflow)
        self._gpu_checked = True

    def start(self) -> None:
        """Starts ComfyUI, which fails if CUDA does not work, and waits until it is ready.

        Raises:
            GenerationError: it does not start, or there is no GPU.
        """
        self._check_machine(self.workflow)
        limit_s = self.settings.start_timeout_s
        try:
            self._client(Deadline(limit_s))
        except JobTimeout as exc:
            raise ComfyUnavailable(f"ComfyUI was not ready after {limit_s:g} s") from exc

    def _client(self, deadline: Deadline) -> ComfyClient:
        client = self.comfyui.client(deadline)
        if client.device == "cpu" and not on_cpu(self.settings):
            raise NoGpu("ComfyUI runs on the CPU; if that is intended, set DEVICE=cpu")
        return client

    def _check_machine(self, workflow: Workflow) -> None:
        if not self._gpu_checked:  # asking the driver takes longer than looking for files
            self.check_gpu()
        if missing := locate.missing(workflow.models, self.settings):
            raise ModelMissing(f"{' and '.join(map(str, missing))} missing")

    def _checks(self) -> Checks:
        def embedding_fault(name: str) -> str | None:
            return embeddings.fault(name, self.workflow.models, self.settings)

        return Checks(embedding_fault, partial(image_check.fault, fetches=self.settings.fetch_images))

    def _check_embeddings(self, planned: PlannedPicture) -> None:
        """Raises InvalidInput if an embedding has vanished while the job was queued; ComfyUI would draw without it."""
        values = planned.request.values
        named = [each for each in planned.workflow.parameters if each.is_prompt and each.name in values]
        checks = self._checks()
        if faults := [fault for parameter in named for fault in parameter.faults(values[parameter.name], checks)]:
            raise InvalidInput(faults)

    def _draw(self, graph: Graph, drawing: Drawing) -> tuple[Run, ComfyClient, float]:
        """Runs the graph until there is a picture, or an error that another attempt cannot cure.

        Returns the run, the ComfyUI that it ran on, and when that was ready, on the monotonic clock.
        """
        chunks = None
        if self.settings.embed_workflow:
            graph, chunks = drawing.planned.workflow.with_metadata(graph)
        while True:
            if not self.comfyui.is_ready:
                drawing.begin(Stage.STARTING)
            client = self._client(drawing.deadline)
            drawing.begin(Stage.LOADING)
            ready_s = time.monotonic()
            try:
                output_node = drawing.planned.workflow.output_node
                run = client.run(graph, output_node, drawing.deadline, drawing.follow, chunks)
                run.result()
            except GenerationError as exc:
                self.comfyui.recover(client, self._cause(exc, drawing.planned.workflow), drawing.attempts)
            else:
                self.comfyui.drew()
                return run, client, ready_s

    def _cause(self, error: GenerationError, workflow: Workflow) -> GenerationError:
        """Returns why a run failed: a weight file that vanished or was damaged meanwhile, or the error itself."""
        if isinstance(error, (NodeFailed, WorkflowRejected, ComfyCrashed)):
            try:
                fitness.check_weights(self.settings, workflow)
            except ModelMissing as missing:
                missing.__cause__ = error
                return missing
        return error
