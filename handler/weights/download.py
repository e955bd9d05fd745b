"""Downloads the files of models.txt into the models folder, several at a time.

Not by huggingface_hub, which loses a partial download when it is stopped and sends HF_TOKEN to mirrors, among other
things (docs/models.md).
"""

import contextlib
import fcntl
import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import httpx

import handler
from handler import proxies
from handler.settings import WeightSettings
from handler.weights import listed
from handler.weights.manifest import HUB, Entry
from handler.weights.transfer import DownloadFailed, Part, Transfer

PARALLEL = 4
CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 30.0
LOCK_NAME = ".fetch.lock"

OnSize = Callable[[Entry, int], None]
OnTrouble = Callable[[Entry, str], None]


class Downloader:
    """Downloads entries into the models folder. Made for one command that does nothing else."""

    def __init__(self, settings: WeightSettings, on_size: OnSize, on_trouble: OnTrouble) -> None:
        """Prepares connections, through the proxies of the environment.

        Args:
            settings: HF_ENDPOINT replaces https://huggingface.co; HF_TOKEN is sent only to https://huggingface.co.
            on_size: called with an entry and the number of its bytes that are here; from several threads.
            on_trouble: called with an entry and a problem that does not stop its download; from several threads.

        Raises:
            DownloadFailed: a proxy of the environment cannot be used.
        """
        self._settings = settings
        self._on_size = on_size
        self._on_trouble = on_trouble
        try:
            self._http = proxies.client(
                headers={"Accept-Encoding": "identity", "User-Agent": f"layerdiffuse-alpha/{handler.__version__}"},
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                follow_redirects=True,
            )
        except proxies.BadProxy as exc:
            raise DownloadFailed(str(exc)) from exc

    def download(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, DownloadFailed | None]]:
        """Yields each entry as soon as its file is here, or with the reason why it is not.

        Files that are already here, in any place that the worker reads, are not downloaded. After an exception from
        outside, such as Ctrl-C, threads may still be running: the process should exit.

        Raises:
            DownloadFailed: nothing was downloaded: too little disk space, or another program is downloading.
        """
        models_dir = self._settings.models_dir
        missing = []
        for entry in entries:
            if listed.find(entry, self._settings, functools.partial(self._on_size, entry)):
                yield entry, None
            else:
                missing.append(entry)
        if not missing:
            return
        with _locked(models_dir):
            _check_space(missing, models_dir)
            # Unlike those of concurrent.futures, these threads are daemons: Ctrl-C does not wait for a stalled server.
            with ThreadPool(PARALLEL) as threads:
                yield from threads.imap_unordered(self._outcome, missing)
        self._http.close()

    def _outcome(self, entry: Entry) -> tuple[Entry, DownloadFailed | None]:
        try:
            self._download(entry)
        except DownloadFailed as exc:
            return entry, exc
        return entry, None

    def _download(self, entry: Entry) -> None:
        models_dir = self._settings.models_dir
        try:
            with Part(entry.part(models_dir), functools.partial(self._on_size, entry)) as part:
                self._complete(entry, part)
                part.move(entry.target(models_dir))
        except OSError as exc:
            raise DownloadFailed(f"cannot be written: {exc.strerror}") from exc

    def _complete(self, entry: Entry, part: Part) -> None:
        """Completes the part from the first address that has the rest of the file."""
        failures: list[str] = []
        for url in map(self._address, entry.urls):
            if failures:
                self._on_trouble(entry, f"{failures[-1]}; trying the next address")
            host = httpx.URL(url).host
            transfer = Transfer(entry, part, self._http, functools.partial(self._report, entry, host))
            try:
                transfer.complete(url, self._headers(url))
            except DownloadFailed as exc:
                failures.append(f"{host}: {exc}")
            else:
                return
        raise DownloadFailed("; ".join(failures))

    def _report(self, entry: Entry, host: str, problem: str) -> None:
        self._on_trouble(entry, f"{host}: {problem}")

    def _address(self, url: str) -> str:
        hub_url = str(self._settings.hf_endpoint).rstrip("/")
        return hub_url + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url

    def _headers(self, url: str) -> dict[str, str]:
        token = self._settings.hf_token
        if token is None or not url.startswith(f"{HUB}/"):
            return {}
        # httpx removes the header when a redirect leaves the hub.
        return {"Authorization": f"Bearer {token.get_secret_value()}"}


def _check_space(entries: Iterable[Entry], models_dir: Path) -> None:
    needed_bytes = 0
    for entry in entries:
        part = entry.part(models_dir)
        downloaded_bytes = part.stat().st_size if part.is_file() else 0
        needed_bytes += max(0, entry.max_bytes - downloaded_bytes)
    free_bytes = shutil.disk_usage(models_dir).free
    if needed_bytes > free_bytes:
        raise DownloadFailed(f"{needed_bytes:,} bytes to download, but only {free_bytes:,} are free in {models_dir}")


@contextlib.contextmanager
def _locked(models_dir: Path) -> Iterator[None]:
    """Locks the folder: two programs that append to the same part would corrupt it."""
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        file = (models_dir / LOCK_NAME).open("w")
    except OSError as exc:
        raise DownloadFailed(f"{models_dir} cannot be written: {exc.strerror}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise DownloadFailed(f"another program is downloading into {models_dir}") from exc
        except OSError as exc:
            raise DownloadFailed(f"{models_dir} cannot be locked: {exc.strerror}") from exc
        yield
