"""One weight file from one URL: resumed, hashed while it arrives, retried if that can help."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, Self

import httpx
import tenacity

from handler.weights.manifest import HUB, Entry, OnSize, digest_of

ATTEMPTS = 6
WAIT_S = 1.0  # before the second attempt; doubled before each further one
MAX_WAIT_S = 60.0
MIN_BYTES_PER_S = 2_000  # a connection that is slower over a whole window counts as stalled
WINDOW_S = 60.0
RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}

OnTrouble = Callable[[str], None]


class DownloadFailed(Exception):
    """A file could not be downloaded. If the downloaded part is usable, it is kept for the next run."""


class _Interrupted(DownloadFailed):
    """Another attempt may succeed.

    Attributes:
        wait_s: how long the server asks to wait.
    """

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Part:
    """The downloaded beginning of a file, and its hash.

    Attributes:
        is_resumed: its bytes come from more than one response, so they may belong to different versions of the file.
    """

    def __init__(self, path: Path, on_size: OnSize) -> None:
        """Opens and hashes what an earlier run left, or starts a new file; raises OSError."""
        self._path = path
        self._on_size = on_size
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        self._digest, self.size_bytes = digest_of(self._file, on_size)
        self.is_resumed = self.size_bytes > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.size_bytes == 0:
            self._path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """The hash of the bytes so far."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Appends the chunk."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size_bytes += len(chunk)
        self._on_size(self.size_bytes)

    def restart(self) -> None:
        """Discards all bytes."""
        self._file.truncate(0)
        self._digest, self.size_bytes, self.is_resumed = hashlib.sha256(), 0, False

    def move(self, target: Path) -> None:
        """Moves the file to its target, after its bytes are safely on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(target)


class Transfer:
    """Completes the part of one entry. Not safe to use from several threads."""

    def __init__(self, entry: Entry, part: Part, http: httpx.Client, on_trouble: OnTrouble) -> None:
        self._entry = entry
        self._part = part
        self._http = http
        self._on_trouble = on_trouble

    def complete(self, url: str, headers: Mapping[str, str]) -> None:
        """Downloads the missing rest of the file, in several attempts if need be.

        Raises:
            DownloadFailed: the URL does not have the file, or no attempt succeeded.
            OSError: the part cannot be written.
        """
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_wait_s,
            retry=tenacity.retry_if_exception_type(_Interrupted),
            before_sleep=self._report,
            reraise=True,
        )
        attempts(self._attempt, url, headers)

    def _report(self, state: tenacity.RetryCallState) -> None:
        wait_s = state.next_action.sleep if state.next_action else 0.0
        self._on_trouble(f"{_failure(state)}; retrying in {wait_s:.0f} s")

    def _attempt(self, url: str, headers: Mapping[str, str]) -> None:
        part, entry = self._part, self._entry
        if part.sha256 == entry.sha256:
            return
        position = {"Range": f"bytes={part.size_bytes}-"} if part.size_bytes else {}
        try:
            with self._http.stream("GET", url, headers={**headers, **position}) as response:
                self._check_head(response, url)
                self._append(response)
        except httpx.UnsupportedProtocol as exc:
            raise DownloadFailed(f"redirects to an address that is not http or https: {exc}") from exc
        except httpx.TransportError as exc:
            raise _Interrupted(str(exc) or type(exc).__name__) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise DownloadFailed(str(exc)) from exc
        if not entry.is_rough and part.size_bytes < entry.size_bytes:
            raise _Interrupted(f"ended after {part.size_bytes} of {entry.size_bytes} bytes")
        if part.sha256 != entry.sha256:
            self._reject(f"sha256 is {part.sha256}, expected {entry.sha256}")

    def _check_head(self, response: httpx.Response, url: str) -> None:
        """Makes the part ready for the body of the response, or raises what its status means."""
        part, entry = self._part, self._entry
        status = f"HTTP {response.status_code} {response.reason_phrase}"
        match response.status_code:
            case 200:
                announced = response.headers.get("Content-Length", "")
                if part.size_bytes and not entry.is_rough and announced not in {"", str(entry.size_bytes)}:
                    # Perhaps a proxy's error page; do not lose the part for it.
                    raise _Interrupted(f"offers {announced} bytes, expected {entry.size_bytes}")
                part.restart()  # the server has ignored Range and sends the whole file
            case 206:
                part.is_resumed = True
            case 416:
                self._reject(f"has no bytes after {part.size_bytes}")
            case code if code in RETRIED_STATUSES:
                raise _Interrupted(status, _retry_after_s(response))
            case 401 | 403 if url.startswith(f"{HUB}/"):
                raise DownloadFailed(f"{status}; set HF_TOKEN if the repository needs a token")
            case _:
                raise DownloadFailed(status)

    def _append(self, response: httpx.Response) -> None:
        window_start_s, window_bytes = time.monotonic(), 0
        for chunk in response.iter_raw():
            if self._part.size_bytes + len(chunk) > self._entry.max_bytes:
                self._reject(f"is larger than {self._entry.max_bytes} bytes")
            self._part.write(chunk)
            window_bytes += len(chunk)
            seconds = time.monotonic() - window_start_s
            if seconds > WINDOW_S:
                if window_bytes < MIN_BYTES_PER_S * seconds:
                    raise _Interrupted(f"sent only {window_bytes} bytes in {seconds:.0f} s")
                window_start_s, window_bytes = time.monotonic(), 0

    def _reject(self, reason: str) -> NoReturn:
        """Discards the part. If it was resumed, the fault may be in its beginning, so another attempt starts over."""
        was_resumed = self._part.is_resumed
        self._part.restart()
        if was_resumed:
            raise _Interrupted(f"{reason}; starting over")
        raise DownloadFailed(reason)


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch("[0-9]{1,9}", text) else 0.0


def _wait_s(state: tenacity.RetryCallState) -> float:
    failure = _failure(state)
    asked_s = failure.wait_s if isinstance(failure, _Interrupted) else 0.0
    return min(MAX_WAIT_S, max(asked_s, WAIT_S * 2.0 ** (state.attempt_number - 1)))


def _failure(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
