"""HTTP calls of the command line to a server: retries, and errors as messages."""

import time
from collections.abc import Mapping
from typing import Any, Self

import httpx
import tenacity

from handler import proxies
from handler.cli.terminal import EXIT_UNREACHABLE, CommandFailed
from handler.errors import BadPicture

RUNPOD_URL = "https://api.runpod.ai"
TIMEOUT_S = 30.0
TRIES = 5
BUSY_TRIES = 60


class Unreachable(CommandFailed):
    """No server answers at the address, or it does not speak this API."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_UNREACHABLE)


class Refused(CommandFailed):
    """The server rejected the request, or the job failed; the message is the server's."""


class Api:
    """A server at a base URL."""

    def __init__(self, base_url: str, key: str | None) -> None:
        """Raises Unreachable if the proxy that is set cannot be used."""
        self._base_url = base_url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = proxies.client(headers=headers, timeout=TIMEOUT_S, follow_redirects=True)
        except proxies.BadProxy as exc:
            raise Unreachable(str(exc)) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Posts a job, and returns the response.

        Waits while the queue is full. Does not retry a broken connection: the job may have been accepted.

        Raises:
            Unreachable: no server answers.
            Refused: with the server's error.
        """
        for _ in range(BUSY_TRIES):
            try:
                answer = self._http.post(self._base_url + path, json=body)
            except httpx.HTTPError as exc:
                raise Unreachable(f"{self._base_url} does not answer: {exc}") from exc
            if answer.status_code != 429:
                break
            time.sleep(_seconds(answer.headers.get("Retry-After")))
        return _object(answer)

    def ask(self, method: str, path: str, **parameters: str | int) -> dict[str, Any]:
        """Returns the response to a request that may be repeated.

        Raises:
            Unreachable: no server answers.
            Refused: with the server's error.
        """
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5),
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            reraise=True,
        )
        try:
            return _object(tries(self._http.request, method, self._base_url + path, params=parameters))
        except httpx.HTTPError as exc:
            raise Unreachable(f"{self._base_url} does not answer: {exc}") from exc


def download(url: str) -> bytes:
    """Returns a picture from a bucket; the API key is not sent.

    Raises:
        BadPicture: it cannot be downloaded.
    """
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
