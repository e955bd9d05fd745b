"""Where the command line gets pictures from: its own ComfyUI, or a server that speaks RunPod's job API."""

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from handler.cli.api import Api, Refused, download
from handler.deadline import Deadline
from handler.errors import InvalidInput
from handler.job.generate import Generator
from handler.job.progress import JobProgress
from handler.job.runner import Job, Runner, reported
from handler.settings import Settings
from handler.workflow.parameters import SHOWN_FAULTS, Request

OWN_ENDPOINT = "local"  # our own server accepts any name
POLL_S = 0.25
SLOWEST_POLL_S = 2.0
NAME_CHARACTERS = 40  # of a prompt, in a message

OnStep = Callable[[int, int], None]
Requests = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Result:
    """A picture, with the reply's `info`."""

    encoded: bytes
    info: Mapping[str, Any]


class Source(Protocol):
    """Draws the requests that it was made for."""

    def draw(self, number: int, on_step: OnStep) -> Result:
        """Returns the picture of one of the requests; calls `on_step` with each step and the number of steps."""


class Local:
    """A ComfyUI of this program's own."""

    def __init__(self, requests: Requests, generator: Generator, settings: Settings) -> None:
        """Raises InvalidInput with the faults of all requests."""
        self._generator = generator
        self._runner = Runner(generator)
        self._requests = list(self._parsed(requests))
        self._timeout_s = settings.job_timeout_s

    def start(self) -> None:
        """Waits until ComfyUI is ready; raises ComfyUnavailable if it does not start."""
        self._generator.start()

    def draw(self, number: int, on_step: OnStep) -> Result:
        """Raises GenerationError if the picture could not be drawn."""

        def show(progress: JobProgress) -> None:
            if progress.steps:
                on_step(progress.step, progress.steps)

        with reported("local"):
            job = Job("local", self._requests[number])
            (encoded, *_), outcome = self._runner.run(job, Deadline(self._timeout_s), show)
        assert encoded is not None  # without a bucket
        return Result(encoded, outcome.first.info)

    def _parsed(self, requests: Requests) -> Iterator[Request]:
        faults: list[str] = []
        for raw in requests:
            try:
                yield self._generator.parse(raw)
            except InvalidInput as exc:
                name = f"{str(raw['prompt'])[:NAME_CHARACTERS]}: " if len(requests) > 1 else ""
                faults += [name + detail for detail in exc.details]
        if faults:
            more = len(faults) - SHOWN_FAULTS
            raise InvalidInput(faults[:SHOWN_FAULTS] + ([f"and {more} more"] if more > 0 else []))


class Remote:
    """A server that speaks RunPod's job API: RunPod itself, or `layerdiffuse-alpha serve`."""

    def __init__(self, requests: Requests, api: Api, endpoint: str, timeout_s: float) -> None:
        self._requests = requests
        self._api = api
        self._jobs = f"/v2/{endpoint}"
        self._timeout_s = timeout_s

    def draw(self, number: int, on_step: OnStep) -> Result:
        """Raises Unreachable or Refused if the server sends no picture; cancels a job that takes too long."""
        job_id = self._api.submit(f"{self._jobs}/run", {"input": self._requests[number]})["id"]
        end_s = time.monotonic() + self._timeout_s
        poll_s = POLL_S
        while True:
            job = self._api.ask("GET", f"{self._jobs}/status/{job_id}")
            match job:
                case {"status": "COMPLETED", "output": dict(output)}:
                    return self._result(output)
                case {"status": "IN_PROGRESS", "output": {"step": int(value), "steps": int(steps)}} if steps:
                    on_step(value, steps)
                case {"status": "IN_QUEUE" | "IN_PROGRESS"}:
                    pass
                case _:
                    raise Refused(str(job.get("error") or f"the job is {job.get('status')} and has no output"))
            if time.monotonic() > end_s:
                self._api.ask("POST", f"{self._jobs}/cancel/{job_id}")
                raise Refused(f"the job did not finish within {self._timeout_s:g} s and was cancelled")
            time.sleep(poll_s)
            poll_s = min(SLOWEST_POLL_S, 1.1 * poll_s)

    def _result(self, output: Mapping[str, Any]) -> Result:
        try:
            info = json.loads(output["info"])
            base64_text = output.get("image_base64")
            encoded = base64.b64decode(base64_text, validate=True) if base64_text else download(output["url"])
        except (KeyError, TypeError, ValueError, binascii.Error) as exc:
            raise Refused("the job's output is not a reply of this worker") from exc
        return Result(encoded, info)
