"""Pictures for the command line: from a ComfyUI of its own, or from a server that speaks RunPod's job API."""

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import tenacity

from handler.comfyui.run import Run
from handler.deadline import Deadline
from handler.errors import BadPicture, GenerationError
from handler.job.generate import Generator
from handler.job.reply import Generated
from handler.job.runner import Worker
from handler.settings import Settings

RUNPOD_URL = "https://api.runpod.ai"
OWN_ENDPOINT = "local"  # a server of ours takes any name
POLL_S = 0.25
SLOWEST_POLL_S = 2.0
TIMEOUT_S = 30.0
TRIES = 5
BUSY_TRIES = 60

OnStep = Callable[[int, int], None]


class Unreachable(Exception):
    """There is no server at the address, or none that speaks this API."""


class Refused(Exception):
    """The server does not take the request, or the job failed; the message is the server's."""


@dataclass(frozen=True)
class Drawn:
    """A picture, with `info` as handler.reply has it."""

    png: bytes
    info: Mapping[str, Any]


class Source(Protocol):
    """Where pictures come from."""

    def draw(self, request: Mapping[str, Any], on_step: OnStep) -> Drawn:
        """Returns the picture that a job's input asks for, telling each step and how many there are."""


class Local:
    """A ComfyUI of this program's own."""

    def __init__(self, generator: Generator, settings: Settings) -> None:
        self._worker = Worker(generator)
        self._settings = settings

    def draw(self, request: Mapping[str, Any], on_step: OnStep) -> Drawn:
        """Raises GenerationError where there is no picture."""

        def show(run: Run) -> None:
            if run.progress is not None:
                on_step(run.progress.value, run.progress.maximum)

        def deliver(generated: Generated, _: str | None) -> Drawn:
            return Drawn(generated.png, generated.info)

        job = {"id": "local", "input": request}
        drawn = self._worker.run(job, Deadline(self._settings.job_timeout_s), deliver, show)
        if isinstance(drawn, GenerationError):
            raise drawn
        return drawn


class Remote:
    """A server that speaks RunPod's job API: RunPod itself, or `layerdiffuse-alpha serve`."""

    def __init__(self, base_url: str, endpoint: str, key: str | None, timeout_s: float) -> None:
        self._jobs = f"{base_url.rstrip('/')}/v2/{endpoint}"
        self._timeout_s = timeout_s
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=True)

    def draw(self, request: Mapping[str, Any], on_step: OnStep) -> Drawn:
        """Raises Unreachable or Refused where there is no picture; a job that takes too long is cancelled."""
        job_id = self._submit(request)["id"]
        end_s = time.monotonic() + self._timeout_s
        poll_s = POLL_S
        while True:
            job = self._ask("GET", f"/status/{job_id}")
            match job:
                case {"status": "COMPLETED", "output": dict(output)}:
                    return self._drawn(output)
                case {"status": "IN_PROGRESS", "output": {"step": int(value), "steps": int(steps)}}:
                    on_step(value, steps)
                case {"status": "IN_QUEUE" | "IN_PROGRESS"}:
                    pass
                case _:
                    raise Refused(str(job.get("error") or f"the job is {job.get('status')} and has no output"))
            if time.monotonic() > end_s:
                self._ask("POST", f"/cancel/{job_id}")
                raise Refused(f"the job was not over after {self._timeout_s:g} s, it is cancelled")
            time.sleep(poll_s)
            poll_s = min(SLOWEST_POLL_S, 1.1 * poll_s)

    def _submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Waits where the queue is full. A broken connection is not tried again: the job may have been accepted."""
        for _ in range(BUSY_TRIES):
            try:
                answer = self._http.post(f"{self._jobs}/run", json={"input": request})
            except httpx.HTTPError as exc:
                raise Unreachable(f"{self._jobs} does not answer: {exc}") from exc
            if answer.status_code != 429:
                break
            time.sleep(_seconds(answer.headers.get("Retry-After")))
        return _object(answer)

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5),
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            reraise=True,
        )
        try:
            return _object(tries(self._http.request, method, f"{self._jobs}{path}"))
        except httpx.HTTPError as exc:
            raise Unreachable(f"{self._jobs} does not answer any more: {exc}") from exc

    def _drawn(self, output: Mapping[str, Any]) -> Drawn:
        try:
            info = json.loads(output["info"])
            encoded = output.get("image_base64")
            png = base64.b64decode(encoded, validate=True) if encoded else self._download(output["url"])
        except (KeyError, TypeError, ValueError, binascii.Error) as exc:
            raise Refused("the job's output is not one of this worker's") from exc
        return Drawn(png, info)

    def _download(self, url: str) -> bytes:
        """Gets a picture out of a bucket, whose server is told no key."""
        try:
            answer = httpx.get(url, timeout=TIMEOUT_S, follow_redirects=True)
            answer.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise BadPicture(f"the picture's URL does not give it: {type(exc).__name__}") from exc
        return answer.content


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if answer.status_code == 200 and isinstance(body, dict):
        return body
    match body:
        case {"error": {"code": code, "message": message}}:
            raise Refused(f"{code}: {message}")
    raise Refused(f"HTTP {answer.status_code} {answer.reason_phrase}, expected a job")


def _seconds(retry_after: str | None) -> float:
    return min(60.0, float(retry_after)) if retry_after and retry_after.isdecimal() else 5.0
