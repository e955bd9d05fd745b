"""ComfyUI's HTTP API, as of ComfyUI 0.30.0 (server.py).

ComfyUI calls a graph "prompt"; only this module uses that name.
"""

import contextlib
import errno
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import urllib3

from handler.errors import ComfyBroken, WorkflowRejected
from handler.workflow.graph import Graph

ACCEPT_TIMEOUT_S = 5.0  # to connect, and to accept a graph; ComfyUI does both in milliseconds
ANSWER_TIMEOUT_S = 3.0  # for requests that ComfyUI answers from memory
CONNECTIONS = 4  # kept open, for threads that ask at the same time
NAMED_FAULTS = 5
FILES_WAIT_S = 10.0  # for another part of this process to close files
FILES_POLL_S = 0.1


Connected = TypeVar("Connected")


class NoAnswer(Exception):
    """ComfyUI does not answer, or with something else than its API does."""


class Busy(NoAnswer):
    """ComfyUI accepts connections but does not answer in time."""


class NoFiles(NoAnswer):
    """This process has no file descriptor for a connection; that says nothing about ComfyUI."""


class ComfyApi:
    """The requests to one ComfyUI server. Safe to use from several threads.

    All methods raise NoAnswer if ComfyUI does not answer, unless they say otherwise.
    """

    def __init__(self, address: str) -> None:
        """`address` is `host:port`."""
        self._address = address
        self._http = urllib3.PoolManager(maxsize=CONNECTIONS, retries=False)  # does not look for proxies

    def close(self) -> None:
        """Closes idle connections."""
        self._http.clear()

    def stats(self) -> Any:
        """Returns versions and devices."""
        return self._json("GET", "/system_stats")

    def node_classes(self) -> Any:
        """Returns /object_info: the inputs and outputs of every class."""
        return self._json("GET", "/object_info")

    def submit(
        self, graph: Graph, client_id: str, prompt_id: str, timeout_s: float, chunks: Mapping[str, Any] | None = None
    ) -> None:
        """Queues the graph as the run `prompt_id`; output nodes may write `chunks`, keyword -> JSON, into pictures.

        Raises:
            WorkflowRejected: ComfyUI does not accept the graph.
            ComfyBroken: it failed to look at it.
        """
        body: dict[str, Any] = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
        if chunks:
            body["extra_data"] = {"extra_pnginfo": chunks}
        response = self._request("POST", "/prompt", body, timeout_s)
        if response.status >= 500:
            raise ComfyBroken(f"ComfyUI answered a graph with HTTP {response.status}")
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        # A graph that is only partly valid gets a 200, and only the valid part would run.
        if response.status != 200 or answer.get("node_errors"):
            raise WorkflowRejected(_reason(answer, graph) or f"ComfyUI answered with HTTP {response.status}")

    def interrupt(self, prompt_id: str) -> None:
        """Removes a run from the queue, or interrupts it at the next step or node."""
        self._request("POST", "/queue", {"delete": [prompt_id]})
        self._request("POST", "/interrupt", {"prompt_id": prompt_id})

    def is_queued(self, prompt_id: str) -> bool:
        """Returns whether a run is queued or running."""
        queue = self._json("GET", "/queue")
        return any(entry[1] == prompt_id for entries in queue.values() for entry in entries)

    def history_entry(self, prompt_id: str) -> Mapping[str, Any] | None:
        """Returns how a run ended; None if it has not, or is not known."""
        entry: Mapping[str, Any] | None = self._json("GET", f"/history/{prompt_id}").get(prompt_id)
        return entry

    def forget(self, prompt_ids: Sequence[str]) -> None:
        """Removes runs from the history, which would otherwise grow with every job; ignores NoAnswer."""
        with contextlib.suppress(NoAnswer):
            self._request("POST", "/history", {"delete": list(prompt_ids)})

    def free(self) -> None:
        """Makes ComfyUI release the models and the memory that it can; ignores NoAnswer."""
        with contextlib.suppress(NoAnswer):
            self._request("POST", "/free", {"unload_models": True, "free_memory": True})

    def _json(self, method: str, path: str) -> Any:
        response = self._request(method, path)
        try:
            if response.status < 400:
                return response.json()
        except ValueError:
            pass
        raise NoAnswer(f"ComfyUI answered HTTP {response.status} without JSON")

    def _request(
        self, method: str, path: str, body: Any = None, timeout_s: float | None = None
    ) -> urllib3.BaseHTTPResponse:
        timeout_s = timeout_s or ANSWER_TIMEOUT_S
        try:
            return with_files(
                lambda: self._http.request(method, f"http://{self._address}{path}", json=body, timeout=timeout_s)
            )
        except urllib3.exceptions.HTTPError as exc:
            is_refused = isinstance(exc, urllib3.exceptions.NewConnectionError)  # a TimeoutError, too
            if isinstance(exc, urllib3.exceptions.TimeoutError) and not is_refused:
                raise Busy(f"ComfyUI did not answer within {timeout_s:g} s") from exc
            raise NoAnswer(f"ComfyUI does not answer: {type(exc).__name__}") from exc


def _reason(answer: Mapping[str, Any], graph: Graph) -> str:
    """Returns why ComfyUI rejected the graph, with nodes named by their titles."""
    faults = []
    for node_id, report in (answer.get("node_errors") or {}).items():
        node = graph.get(node_id, {})
        title = node.get("_meta", {}).get("title", node.get("class_type", node_id))
        for error in report.get("errors", ()):
            facts = error.get("extra_info", {})
            value = f" {facts['received_value']!r}" if "received_value" in facts else ""
            place = f" ({facts['input_name']}{value})" if "input_name" in facts else ""
            faults.append(f"{title}: {error.get('message')}{place}")
    if not faults and isinstance(answer.get("error"), Mapping):
        faults = [str(answer["error"].get("message"))]
    return "; ".join(faults[:NAMED_FAULTS])


def device_name(name: str) -> str:
    """Returns the GPU's name out of "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync"; "cpu" stays."""
    return name.partition(" : ")[0].split(" ", maxsplit=1)[-1]


def with_files(connect: Callable[[], Connected]) -> Connected:
    """Returns what `connect` returns, which is tried for FILES_WAIT_S if this process has no file descriptor for it.

    Raises:
        NoFiles: there still was none.
    """
    end_s = time.monotonic() + FILES_WAIT_S
    while True:
        try:
            return connect()
        except (OSError, urllib3.exceptions.HTTPError) as exc:
            if not _lacks_files(exc):
                raise
            if time.monotonic() > end_s:
                raise NoFiles("the worker has too many open files") from exc
        time.sleep(FILES_POLL_S)


def _lacks_files(exc: BaseException | None) -> bool:
    """Returns whether the error or one of its causes is about file descriptors."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in {errno.EMFILE, errno.ENFILE}:
            return True
        exc = exc.__cause__ or exc.__context__
    return False
