"""Where the command line gets pictures from: its own ComfyUI, or a server that speaks RunPod's job API."""

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import httpx
import tenacity

from handler import proxies
from handler.cli.terminal import EXIT_UNREACHABLE, CommandFailed
from handler.comfyui.run import Run
from handler.deadline import Deadline
from handler.errors import BadPicture
from handler.job.generate import Generator
from handler.job.runner import Job, Runner, reported
from handler.settings import Settings

RUNPOD_URL = "https://api.runpod.ai"
OWN_ENDPOINT = "local"  # our own server accepts any name
POLL_S = 0.25
SLOWEST_POLL_S = 2.0
TIMEOUT_S = 30.0
TRIES = 5
BUSY_TRIES = 60

OnStep = Callable[[int, int], None]
Requests = Sequence[Mapping[str, Any]]


class Unreachable(CommandFailed):
    """No server answers at the address, or it does not speak this API."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_UNREACHABLE)


class Refused(CommandFailed):
    """The server rejected the request, or the job failed; the message is the server's."""


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
        """Raises InvalidInput with every fault of a request."""
        self._generator = generator
        self._runner = Runner(generator)
        self._requests = [generator.parse(raw) for raw in requests]
        self._timeout_s = settings.job_timeout_s

    def start(self) -> None:
        """Waits until ComfyUI is ready; raises ComfyUnavailable if it does not start."""
        self._generator.start()

    def draw(self, number: int, on_step: OnStep) -> Result:
        """Raises GenerationError if there is no picture."""

        def show(run: Run) -> None:
            if run.progress is not None:
                on_step(run.progress.value, run.progress.maximum)

        with reported("local"):
            picture, _ = self._runner.run(Job("local", self._requests[number]), Deadline(self._timeout_s), show)
        return Result(picture.encoded, picture.info)


class Remote:
    """A server that speaks RunPod's job API: RunPod itself, or `layerdiffuse-alpha serve`."""

    def __init__(self, requests: Requests, base_url: str, endpoint: str, key: str | None, timeout_s: float) -> None:
        self._requests = requests
        self._jobs = f"{base_url.rstrip('/')}/v2/{endpoint}"
        self._timeout_s = timeout_s
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = proxies.client(headers=headers, timeout=TIMEOUT_S, follow_redirects=True)
        except proxies.BadProxy as exc:
            raise Unreachable(str(exc)) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def draw(self, number: int, on_step: OnStep) -> Result:
        """Raises Unreachable or Refused if there is no picture; cancels a job that takes too long."""
        job_id = self._submit(self._requests[number])["id"]
        end_s = time.monotonic() + self._timeout_s
        poll_s = POLL_S
        while True:
            job = self._ask("GET", f"/status/{job_id}")
            match job:
                case {"status": "COMPLETED", "output": dict(output)}:
                    return self._result(output)
                case {"status": "IN_PROGRESS", "output": {"step": int(value), "steps": int(steps)}}:
                    on_step(value, steps)
                case {"status": "IN_QUEUE" | "IN_PROGRESS"}:
                    pass
                case _:
                    raise Refused(str(job.get("error") or f"the job is {job.get('status')} and has no output"))
            if time.monotonic() > end_s:
                self._ask("POST", f"/cancel/{job_id}")
                raise Refused(f"the job did not finish within {self._timeout_s:g} s and was cancelled")
            time.sleep(poll_s)
            poll_s = min(SLOWEST_POLL_S, 1.1 * poll_s)

    def _submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Waits while the queue is full. Does not retry a broken connection: the job may have been accepted."""
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
            raise Unreachable(f"{self._jobs} no longer answers: {exc}") from exc

    def _result(self, output: Mapping[str, Any]) -> Result:
        try:
            info = json.loads(output["info"])
            base64_text = output.get("image_base64")
            encoded = base64.b64decode(base64_text, validate=True) if base64_text else self._download(output["url"])
        except (KeyError, TypeError, ValueError, binascii.Error) as exc:
            raise Refused("the job's output is not a reply of this worker") from exc
        return Result(encoded, info)

    def _download(self, url: str) -> bytes:
        """Downloads a picture from a bucket, without sending the API key."""
        try:
            with proxies.client(timeout=TIMEOUT_S, follow_redirects=True) as without_key:
                answer = without_key.get(url).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise BadPicture(f"the picture cannot be downloaded from its URL: {type(exc).__name__}") from exc
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
