"""The steps of `verify`, in order. A step that fails is a verdict, and does not stop those that can still run."""

import contextlib
import logging
import time
from collections.abc import Iterator

from rich.progress import Progress, TaskID

import handler
from handler.cli import checks, verify_machine, verify_pictures, verify_verdicts, verify_weights
from handler.cli.checks import Finding, Severity
from handler.cli.verify_pictures import Drawn
from handler.cli.verify_report import Report
from handler.cli.verify_verdicts import SEE_ERRORS
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import ComfyCrashed, ComfyUnavailable, GenerationError
from handler.job import fitness, preparation, profiles
from handler.job.generate import Generator
from handler.settings import Settings
from handler.weights.manifest import BadList
from handler.workflow.workflow import Workflow

NOT_ABOUT_DRAWING = {"address"}  # a finding of doctor that says nothing about this machine's pictures
LOST_IN_A_ROW = 2  # pictures; if ComfyUI is lost so often, it will not come back
LOST = (ComfyUnavailable.code, ComfyCrashed.code)

log = logging.getLogger(__name__)


class Verification:
    """Fills a report."""

    def __init__(self, settings: Settings, report: Report, progress: Progress, shows_comfyui: bool) -> None:
        self._settings = settings
        self._report = report
        self._progress = progress
        self._shows_comfyui = shows_comfyui

    def run(self) -> None:
        """Runs all steps. If it is interrupted, the report has what was found until then."""
        report = self._report
        report.versions = {"layerdiffuse_alpha": handler.__version__}
        try:
            with self._step("machine"):
                report.machine = verify_machine.describe(self._settings)
            workflow = self._doctor()
            if workflow is not None and self._weights(workflow):
                self._draw(workflow)
            else:
                self._add(Severity.WRONG, "pictures", "not drawn, because of what failed above")
        except KeyboardInterrupt:
            self._add(Severity.WRONG, "verify", "interrupted", "run it again; it takes a few minutes")

    def _doctor(self) -> Workflow | None:
        """Returns the workflow, if everything that drawing needs is installed."""
        workflow = None
        with self._step("doctor"):
            found = [
                finding
                for finding in checks.findings(self._settings, draws=False)
                if finding.subject not in NOT_ABOUT_DRAWING
            ]
            fine = sum(finding.severity is Severity.OK for finding in found)
            self._add(Severity.OK, "doctor", f"{fine} of {len(found)} checks are fine")
            self._report.verdicts += [finding for finding in found if finding.severity is not Severity.OK]
            if not any(finding.subject in {"ComfyUI", "PyTorch"} and finding.remedy for finding in found):
                workflow = profiles.load(self._settings)
                self._report.profile = workflow.profile
        return workflow

    def _weights(self, workflow: Workflow) -> bool:
        """Returns whether every file that the workflow needs could be read."""
        task = self._progress.add_task("weights", total=None)

        def show(name: str, done_bytes: int, size_bytes: int) -> None:
            self._progress.update(task, description=f"weights: {name}", completed=done_bytes, total=size_bytes)

        with self._step("weights"):
            for finding, weight in verify_weights.check(workflow, self._settings, show):
                self._report.verdicts.append(finding)
                self._report.weights += [weight] if weight is not None else []
        self._progress.remove_task(task)
        readable = {weight.path for weight in self._report.weights}
        return all(str(file) in readable for file in workflow.models)

    def _draw(self, workflow: Workflow) -> None:
        with (
            verify_machine.MemorySampler() as sampler,
            verify_machine.comfyui_log(self._shows_comfyui) as comfyui_log,
            ComfyProcess(self._settings) as comfyui,
        ):
            generator = Generator(workflow, comfyui, self._settings)
            accepting = self._settings.model_copy(update={"alpha_check": "accept"})
            try:
                if self._start(generator, comfyui, comfyui_log):
                    self._pictures(workflow, Generator(workflow, comfyui, accepting))
                    self._report.patch = comfyui_log.proof
                    self._report.verdicts.append(verify_verdicts.of_patch(comfyui_log.proof))
            finally:
                self._report.comfyui = comfyui_log.facts
                self._report.gpu_memory = sampler.memory()
                self._report.comfyui_tail = () if self._report.passed else comfyui_log.tail
        self._judge_machine()

    def _start(self, generator: Generator, comfyui: ComfyProcess, comfyui_log: verify_machine.ComfyLog) -> bool:
        """Returns whether ComfyUI runs; a failed warm-up does not keep the pictures from being tried."""
        with self._step("fitness"):
            generator.check_gpu()
            fitness.check_weights(self._settings, generator.workflow)
            fitness.check_disk()
            self._add(Severity.OK, "fitness", "GPU, weights and disk are fine")
        began_s = time.time()
        seconds = self._report.cold_start
        with self._spinner("starting ComfyUI"), self._step("ComfyUI"):
            generator.start()
            ready_s = time.time()
            seconds |= comfyui_log.start_seconds(began_s, ready_s)
            self._add(Severity.OK, "ComfyUI", f"ready after {ready_s - began_s:.1f} s")
        if not seconds:
            return False
        self._report.versions = {**self._report.versions, **comfyui.client(Deadline(1)).versions}
        with self._spinner("warm-up: one whole picture"), self._step("warm-up"):
            picture = preparation.first_picture(generator, "full")
            stages = dict(picture.info["seconds"])
            total_s = stages.pop("total")
            seconds |= {stage: value for stage, value in stages.items() if stage != verify_pictures.WAIT}
            seconds["in all"] = round(time.time() - began_s, 3)
            share = picture.info["alpha"]["transparent"]
            self._add(Severity.OK, "warm-up", f"{share:.0%} of the picture is transparent, in {total_s:.1f} s")
        self._report.options = comfyui.options().reasons
        return True

    def _pictures(self, workflow: Workflow, generator: Generator) -> None:
        with self._step("pictures"):
            references = verify_pictures.references(workflow, self._settings)
            drawn = self._report.pictures
            task = self._progress.add_task("pictures", total=len(references) + 1)
            for number, reference in enumerate([*references, references[0]]):
                self._progress.update(task, completed=number, description=f"pictures: {reference.name}")

                def show(step: int, steps: int, number: int = number) -> None:
                    self._progress.update(task, completed=number + step / steps)

                drawn.append(verify_pictures.draw(reference, generator, self._settings, show))
                lost = [picture.error.startswith(LOST) for picture in drawn[-LOST_IN_A_ROW:]]
                if len(lost) == LOST_IN_A_ROW and all(lost):
                    self._add(Severity.WRONG, "pictures", "stopped: ComfyUI was lost twice in a row", SEE_ERRORS)
                    break
            self._progress.remove_task(task)
            again = drawn.pop() if len(drawn) > len(references) else None
            self._judge(workflow, drawn, again)

    def _judge(self, workflow: Workflow, drawn: list[Drawn], again: Drawn | None) -> None:
        report, default = self._report, workflow.size(workflow.render({}))
        report.stages = verify_pictures.median_seconds(drawn, default, workflow)
        report.verdicts += verify_verdicts.of_pictures(drawn)
        report.verdicts += verify_verdicts.of_repetition(drawn[0], again) if again else []
        report.verdicts.append(verify_verdicts.of_cache(workflow, drawn[1:]))
        report.verdicts += verify_verdicts.of_time(report.stages, default)

    def _judge_machine(self) -> None:
        report = self._report
        gpu = next((card["name"] for card in report.machine.get("gpus", ())), "the CPU")
        if report.stages:
            report.cost = verify_verdicts.cost(gpu, report.stages["total"], report.cold_start.get("in all", 0.0))
        report.verdicts.append(verify_verdicts.of_memory(report.gpu_memory))
        report.verdicts.append(verify_verdicts.of_cost(gpu, report.cost))

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Turns an error in the block into a verdict."""
        try:
            yield
        except (GenerationError, BadList) as exc:
            self._add(Severity.WRONG, name, str(exc), SEE_ERRORS)
        except Exception as exc:  # a bug of ours must not cost the rest of the report
            log.exception("step failed", extra={"step": name})
            fact = f"unexpected {type(exc).__name__}: {exc}"
            self._add(Severity.WRONG, name, fact, "this is a bug: attach the report to an issue")

    @contextlib.contextmanager
    def _spinner(self, description: str) -> Iterator[TaskID]:
        task = self._progress.add_task(description, total=None)
        try:
            yield task
        finally:
            self._progress.remove_task(task)

    def _add(self, severity: Severity, subject: str, fact: str, remedy: str = "") -> None:
        self._report.verdicts.append(Finding(severity, subject, fact, remedy))
