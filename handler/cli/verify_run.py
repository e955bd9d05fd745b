"""The steps of `verify`, in order. A step that fails is a verdict, and does not stop those that can still run."""

import contextlib
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

import handler
from handler.cli import checks, verify_machine, verify_pictures, verify_weights
from handler.cli.checks import Finding, Severity
from handler.cli.verify_pictures import Drawn
from handler.cli.verify_report import Report
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import ComfyCrashed, ComfyUnavailable, GenerationError
from handler.job import profiles
from handler.job.generate import Generator
from handler.settings import Settings
from handler.weights.manifest import BadList
from handler.workflow.workflow import Workflow

PRICES = Path(__file__).with_name("prices.json")
NOT_ABOUT_DRAWING = {"address"}  # a finding of doctor that says nothing about this machine's pictures
LOST_IN_A_ROW = 2  # pictures; if ComfyUI is lost so often, it will not come back
LOST = (ComfyUnavailable.code, ComfyCrashed.code)
SEE_ERRORS = "docs/errors.md explains the code; attach the report to an issue if that does not help"

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
            try:
                if self._start(generator, comfyui):
                    self._pictures(workflow, generator)
            finally:
                self._report.comfyui = comfyui_log.told
                self._report.gpu_memory = sampler.memory()
                self._report.comfyui_tail = () if self._report.passed else comfyui_log.tail
        self._judge_memory()
        self._cost()

    def _start(self, generator: Generator, comfyui: ComfyProcess) -> bool:
        """Returns whether ComfyUI runs; a failed warm-up does not keep the pictures from being tried."""
        with self._step("fitness"):
            for check in (generator.check_gpu, generator.check_weights, generator.check_disk):
                check()
            self._add(Severity.OK, "fitness", "GPU, weights and disk are fine")
        started_s = time.monotonic()
        seconds = self._report.cold_start
        with self._spinner("starting ComfyUI"), self._step("ComfyUI"):
            generator.start()
            seconds["ComfyUI ready"] = round(time.monotonic() - started_s, 3)
            self._add(Severity.OK, "ComfyUI", f"ready after {seconds['ComfyUI ready']:.1f} s")
        if not seconds:
            return False
        self._report.versions = {**self._report.versions, **comfyui.client(Deadline(1)).versions}
        with self._spinner("warm-up: one whole picture"), self._step("warm-up"):
            picture = generator.first_picture("full")
            assert picture is not None
            stages = dict(picture.info["seconds"])
            total_s = stages.pop("total")
            seconds |= {stage: value for stage, value in stages.items() if stage != verify_pictures.WAIT}
            seconds["in all"] = round(time.monotonic() - started_s, 3)
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
        fine = [picture for picture in drawn if not picture.error]
        severity = Severity.OK if len(fine) == len(drawn) else Severity.WRONG
        self._add(severity, "pictures", f"{len(fine)} of {len(drawn)} are transparent")
        for picture in drawn:
            if picture.error:
                self._add(Severity.WRONG, f"picture: {picture.name}", picture.error, SEE_ERRORS)
        for is_same, fact in verify_pictures.repeated(drawn[0], again) if again else ():
            self._add(Severity.OK if is_same else Severity.NOTE, "same seed twice", fact)
        if reloaded := verify_pictures.reloaded(workflow, drawn[1:]):
            self._add(Severity.WRONG, "cache", f"{', '.join(reloaded)} ran again in later jobs", "see docs/gpu.md")
        else:
            self._add(Severity.OK, "cache", "the models stay loaded from job to job")
        default = workflow.size(workflow.render({}))
        self._report.stages = verify_pictures.median_seconds(drawn, default, workflow)
        if self._report.stages:
            size = "x".join(map(str, default))
            self._add(Severity.OK, "time", f"{self._report.stages['total']:.2f} s for a picture of {size}, median")

    def _judge_memory(self) -> None:
        memory = self._report.gpu_memory
        if memory is None:
            self._add(Severity.NOTE, "GPU memory", "not measured: the NVIDIA driver reports no GPU")
        else:
            before = f"{memory.before_bytes / 1e9:.1f} GB of them before ComfyUI started"
            self._add(Severity.OK, "GPU memory", f"peak {memory.peak_bytes / 1e9:.1f} GB, {before}")

    def _cost(self) -> None:
        gpu = next((card["name"] for card in self._report.machine.get("gpus", ())), "the CPU")
        price = price_of(gpu)
        if price is None or not self._report.stages:
            self._add(Severity.NOTE, "cost", f"no price is known for {gpu}")
            return
        usd_per_second = price["usd_per_second"]
        picture_usd = usd_per_second * self._report.stages["total"]
        cold_start_usd = usd_per_second * self._report.cold_start.get("in all", 0.0)
        self._report.cost = {
            "gpu": gpu,
            **price,
            "usd_per_picture": round(picture_usd, 6),
            "usd_per_cold_start": round(cold_start_usd, 6),
        }
        self._add(Severity.OK, "cost", f"${picture_usd:.5f} a picture at ${usd_per_second} a second")

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


def price_of(gpu: str) -> dict[str, Any] | None:
    """Returns `source`, `date` and `usd_per_second` of a GPU by its driver's name, or None if no price is known."""
    prices = json.loads(PRICES.read_text("utf-8"))
    for name, usd in prices.pop("usd_per_second").items():
        if re.search(rf"\b{name}\b", gpu):
            return {**prices, "usd_per_second": usd}
    return None
