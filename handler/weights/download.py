"""Fetches the files of models.txt: resumed, hashed while they come, in place only when they are whole and right."""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import tenacity

import handler
from handler.weights.manifest import Entry, digest_of, is_here

HUB = "https://huggingface.co"  # the only origin that is told HF_TOKEN
PARALLEL = 4
TRIES = 6
WAIT_S = 1.0  # before the second try, twice as long before each further one
LONGEST_WAIT_S = 60.0
CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 30.0
SLOW_BYTES_PER_S = 2_000  # slower than this over a whole window counts as a stall
WINDOW_S = 60.0
TRIED_AGAIN = {408, 425, 429, 500, 502, 503, 504}
LOCK_NAME = ".fetch.lock"

OnSize = Callable[[Entry, int], None]
OnTrouble = Callable[[Entry, str], None]


class NotFetched(Exception):
    """A file could not be fetched; what is good of it is kept for the next time."""


class _Interrupted(NotFetched):
    """Another try may go on where this one ended.

    Attributes:
        wait_s: how long the server asks to be left alone.
    """

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class _WrongContent(NotFetched):
    """What came is not the listed file."""


class Part:
    """The beginning of a file on its way, and the hash of it.

    Attributes:
        size_bytes: how much is there.
        is_patched: it did not come in one answer, so that two versions of a file may be mixed in it.
    """

    def __init__(self, path: Path, on_size: Callable[[int], None]) -> None:
        """Opens and hashes what an earlier run left, or begins; raises OSError."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        self._digest, self.size_bytes = digest_of(self._file, on_size)
        self.is_patched = self.size_bytes > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self.size_bytes == 0:
            self._path.unlink(missing_ok=True)

    def sha256(self) -> str:
        """Returns the hash of what is there."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Appends."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def restart(self) -> None:
        """Throws away what is there."""
        self._file.truncate(0)
        self._digest, self.size_bytes, self.is_patched = hashlib.sha256(), 0, False

    def become(self, place: Path) -> None:
        """Takes its place, safe from a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(place)


class Fetcher:
    """Fetches entries into a models folder; made for one command, in which nothing else runs."""

    def __init__(
        self, models_dir: Path, hub_url: str, token: str | None, on_size: OnSize, on_trouble: OnTrouble
    ) -> None:
        """Prepares connections, through the proxies of the environment.

        Args:
            models_dir: made where it is not there.
            hub_url: asked in place of https://huggingface.co.
            token: sent to https://huggingface.co and to nobody else.
            on_size: told how many bytes of an entry are there; called from several threads.
            on_trouble: told what went wrong with an entry and does not end it yet; called from several threads.

        Raises:
            NotFetched: the environment has a proxy that cannot be used.
        """
        self._models_dir = models_dir
        self._hub_url = hub_url.rstrip("/")
        self._token = token
        self._on_size = on_size
        self._on_trouble = on_trouble
        try:
            self._http = httpx.Client(
                headers={"Accept-Encoding": "identity", "User-Agent": f"layerdiffuse-alpha/{handler.__version__}"},
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                follow_redirects=True,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as exc:
            raise NotFetched(f"a proxy of the environment cannot be used: {exc}") from exc

    def fetch_all(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, NotFetched | None]]:
        """Yields each entry when its file is there, or with what kept it from that.

        After an exception from outside, Ctrl-C above all, threads may still be at work: the process should end.

        Raises:
            NotFetched: nothing was tried, since the files do not fit or another program fetches.
        """
        with _locked(self._models_dir):
            wanted = []
            for entry in entries:
                if is_here(entry, self._models_dir):
                    yield entry, None
                else:
                    wanted.append(entry)
            _check_space(wanted, self._models_dir)
            # Unlike those of concurrent.futures its threads are daemons: Ctrl-C does not wait for a server that stalls.
            with ThreadPool(PARALLEL) as threads:
                yield from threads.imap_unordered(self._outcome, wanted)
        self._http.close()

    def _outcome(self, entry: Entry) -> tuple[Entry, NotFetched | None]:
        try:
            self._fetch(entry)
        except NotFetched as exc:
            return entry, exc
        return entry, None

    def _fetch(self, entry: Entry) -> None:
        try:
            with Part(entry.part(self._models_dir), functools.partial(self._on_size, entry)) as part:
                self._complete(entry, part)
                part.become(entry.place(self._models_dir))
        except OSError as exc:
            raise NotFetched(f"cannot be written: {exc.strerror}") from exc

    def _complete(self, entry: Entry, part: Part) -> None:
        """Completes the part from the first address that has what is missing."""
        faults: list[str] = []
        for url in map(self._address, entry.urls):
            if faults:
                self._on_trouble(entry, f"{faults[-1]}; on to the next address")
            try:
                self._fetch_from(url, entry, part)
            except _WrongContent as exc:
                part.restart()
                faults.append(f"{httpx.URL(url).host}: {exc}")
            except NotFetched as exc:
                faults.append(f"{httpx.URL(url).host}: {exc}")
            else:
                return
        raise NotFetched("; ".join(faults))

    def _fetch_from(self, url: str, entry: Entry, part: Part) -> None:
        """Completes the part from one address; from the beginning where it came in pieces that do not fit."""
        try:
            self._persist(url, entry, part)
        except _WrongContent as exc:
            if not part.is_patched:
                raise
            self._on_trouble(entry, f"{exc}; once more from the beginning")
            part.restart()
            self._persist(url, entry, part)

    def _persist(self, url: str, entry: Entry, part: Part) -> None:
        def tell(state: tenacity.RetryCallState) -> None:
            wait_s = state.next_action.sleep if state.next_action else 0.0
            self._on_trouble(entry, f"{httpx.URL(url).host}: {_failure(state)}; again in {wait_s:.0f} s")

        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=_wait_s,
            retry=tenacity.retry_if_exception_type(_Interrupted),
            before_sleep=tell,
            reraise=True,
        )
        tries(self._go_on, url, entry, part)

    def _go_on(self, url: str, entry: Entry, part: Part) -> None:
        """Asks once for what the part lacks, and appends it."""
        if part.sha256() == entry.sha256:
            return
        try:
            with self._http.stream("GET", url, headers=self._headers(url, part)) as answer:
                _prepare(part, entry, answer)
                self._append(answer, entry, part)
        except httpx.UnsupportedProtocol as exc:
            raise NotFetched(f"leads to an address that is neither http nor https: {exc}") from exc
        except httpx.TransportError as exc:
            raise _Interrupted(str(exc) or type(exc).__name__) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise NotFetched(str(exc)) from exc
        if not entry.is_rough and part.size_bytes < entry.size_bytes:
            raise _Interrupted(f"ended after {part.size_bytes} of {entry.size_bytes} bytes")
        if part.sha256() != entry.sha256:
            raise _WrongContent(f"has sha256 {part.sha256()}, expected {entry.sha256}")

    def _append(self, answer: httpx.Response, entry: Entry, part: Part) -> None:
        window_start_s, window_bytes = time.monotonic(), 0
        for chunk in answer.iter_raw():
            if part.size_bytes + len(chunk) > entry.most_bytes:
                raise _WrongContent(f"has more than {entry.most_bytes} bytes")
            part.write(chunk)
            self._on_size(entry, part.size_bytes)
            window_bytes += len(chunk)
            seconds = time.monotonic() - window_start_s
            if seconds > WINDOW_S:
                if window_bytes < SLOW_BYTES_PER_S * seconds:
                    raise _Interrupted(f"gave {window_bytes} bytes in {seconds:.0f} s")
                window_start_s, window_bytes = time.monotonic(), 0

    def _headers(self, url: str, part: Part) -> dict[str, str]:
        headers = {}
        if part.size_bytes:
            headers["Range"] = f"bytes={part.size_bytes}-"
        if self._token and url.startswith(f"{HUB}/"):
            headers["Authorization"] = f"Bearer {self._token}"  # httpx drops it where a redirect leaves the origin
        return headers

    def _address(self, url: str) -> str:
        return self._hub_url + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url


def _prepare(part: Part, entry: Entry, answer: httpx.Response) -> None:
    """Makes the part ready for the body, or raises what the head of the answer means."""
    status = answer.status_code
    if status == 200:
        announced = answer.headers.get("Content-Length", "")
        if part.size_bytes and not entry.is_rough and announced not in {"", str(entry.size_bytes)}:
            # A proxy's page of excuses, maybe: what is there already is worth more.
            raise _Interrupted(f"offers {announced} bytes, expected {entry.size_bytes}")
        part.restart()  # Range was ignored: all of it comes
    elif status == 206:
        part.is_patched = True
    elif status == 416:
        raise _WrongContent(f"does not go on after {part.size_bytes} bytes")
    elif status in TRIED_AGAIN:
        raise _Interrupted(f"HTTP {status} {answer.reason_phrase}", _retry_after_s(answer))
    else:
        raise NotFetched(f"HTTP {status} {answer.reason_phrase}")


def _retry_after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return float(text) if re.fullmatch("[0-9]{1,9}", text) else 0.0


def _wait_s(state: tenacity.RetryCallState) -> float:
    failure = _failure(state)
    asked_s = failure.wait_s if isinstance(failure, _Interrupted) else 0.0
    return min(LONGEST_WAIT_S, max(asked_s, WAIT_S * 2.0 ** (state.attempt_number - 1)))


def _failure(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _check_space(entries: Iterable[Entry], models_dir: Path) -> None:
    needed_bytes = 0
    for entry in entries:
        part = entry.part(models_dir)
        begun_bytes = part.stat().st_size if part.is_file() else 0
        needed_bytes += max(0, entry.most_bytes - begun_bytes)
    free_bytes = shutil.disk_usage(models_dir).free
    if needed_bytes > free_bytes:
        raise NotFetched(f"{needed_bytes:,} bytes are still to come, {free_bytes:,} are free in {models_dir}")


@contextlib.contextmanager
def _locked(models_dir: Path) -> Iterator[None]:
    """Holds the folder: two programs that append to one part would make a file that neither has hashed."""
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        file = (models_dir / LOCK_NAME).open("w")
    except OSError as exc:
        raise NotFetched(f"{models_dir} cannot be written: {exc.strerror}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise NotFetched(f"another program is fetching into {models_dir}") from exc
        except OSError as exc:
            raise NotFetched(f"{models_dir} cannot be locked: {exc.strerror}") from exc
        yield
