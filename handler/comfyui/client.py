"""ComfyUI's HTTP and websocket API, as of ComfyUI 0.30.0 (server.py, execution.py).

ComfyUI calls a graph "prompt"; only this module uses that name.
"""

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
import websocket

from handler.comfyui.run import Message, PictureFrame, Run, parse_binary, parse_text
from handler.deadline import Deadline
from handler.errors import ComfyUnavailable, GenerationError, WorkflowRejected
from handler.workflow.workflow import Graph

SUBMIT_TIMEOUT_S = 30.0  # to connect and submit, even while another run keeps ComfyUI busy
ANSWER_TIMEOUT_S = 3.0  # for requests that ComfyUI answers from memory
FRAME_POLL_S = 0.25
SILENCE_S = 5.0  # after this long without a frame, /history is checked for the end of the run
SUBMISSIONS = 3
INTERRUPT_GRACE_S = 15.0  # an interrupt takes effect at the next step or node
INTERRUPT_POLL_S = 0.05
NAMED_FAULTS = 5

log = logging.getLogger(__name__)

OnProgress = Callable[[Run], None]


class ComfyBusy(ComfyUnavailable):
    """ComfyUI accepts connections but does not answer in time."""


class ComfyClient:
    """Runs graphs on one ComfyUI server. Safe to use from several threads.

    Attributes:
        versions: of ComfyUI and PyTorch, once the server is ready.
        device: what it computes on, for example "NVIDIA GeForce RTX 4090" or "cpu".
        is_stuck: whether a run could not be removed from the server.
    """

    def __init__(self, address: str) -> None:
        """`address` is `host:port`."""
        self._address = address
        self.versions: dict[str, str] = {}
        self.device = ""
        self.is_stuck = False
        self._http = requests.Session()
        self._http.trust_env = False  # a loopback connection must not go through a proxy

    def close(self) -> None:
        """Closes idle connections."""
        self._http.close()

    def is_ready(self) -> bool:
        """Returns whether the server answers."""
        try:
            stats = self._json("GET", "/system_stats")
        except ComfyUnavailable:
            return False
        system = stats["system"]
        self.versions = {"comfyui": system["comfyui_version"], "torch": system["pytorch_version"]}
        self.device = _device(stats["devices"][0]["name"])
        return True

    def run(self, graph: Graph, output_node: str, deadline: Deadline, on_progress: OnProgress | None = None) -> Run:
        """Returns the finished run of `graph`, with its picture.

        If the websocket breaks, /history says how the run ended. If the picture was lost with it, a second
        run sends it again; ComfyUI then has everything but the output node in its cache.

        Args:
            graph: in API format.
            output_node: id of the node whose picture is wanted.
            deadline: when to give up; the run is then removed from ComfyUI, or `is_stuck` is set.
            on_progress: called with the run after each frame.

        Raises:
            WorkflowRejected: ComfyUI does not accept the graph.
            NodeFailed, JobCancelled: by the run.
            ComfyUnavailable: ComfyUI ended or forgot the run.
            JobTimeout, JobCancelled: by `deadline`.
        """
        for _ in range(SUBMISSIONS):
            run = Run(str(uuid.uuid4()), output_node)
            try:
                self._run_once(run, graph, deadline, on_progress or (lambda _: None))
            except GenerationError as exc:
                self._take_off(run.prompt_id)
                if isinstance(exc, ComfyBusy):
                    deadline.left_s()  # raises if the job's own time is up
                raise
            if run.pngs or run.error is not None or not run.from_history:
                return run
            log.warning("picture lost, running again", extra={"prompt_id": run.prompt_id})
        raise ComfyUnavailable(f"the connection to ComfyUI broke in {SUBMISSIONS} runs of the graph")

    def _take_off(self, prompt_id: str) -> None:
        """Removes a run from the queue or interrupts it, and waits until it is gone; if it stays, sets `is_stuck`."""
        end_s = time.monotonic() + INTERRUPT_GRACE_S
        try:
            self._request("POST", "/queue", {"delete": [prompt_id]})
            self._request("POST", "/interrupt", {"prompt_id": prompt_id})
            while self._is_queued(prompt_id):
                if time.monotonic() > end_s:
                    self.is_stuck = True
                    return
                time.sleep(INTERRUPT_POLL_S)
            self._forget(prompt_id)
        except ComfyUnavailable:
            self.is_stuck = True

    def _is_queued(self, prompt_id: str) -> bool:
        """Returns whether a run is queued or running."""
        queue = self._json("GET", "/queue")
        return any(entry[1] == prompt_id for entries in queue.values() for entry in entries)

    def _run_once(self, run: Run, graph: Graph, deadline: Deadline, on_progress: OnProgress) -> None:
        client_id = uuid.uuid4().hex
        try:
            with self._socket(client_id, deadline) as socket:
                self._submit(graph, client_id, run.prompt_id, deadline)
                self._follow(run, socket, deadline, on_progress)
        except (websocket.WebSocketException, OSError) as exc:
            log.warning("websocket broke", extra={"prompt_id": run.prompt_id, "reason": repr(exc)})
            while not self._ask_history(run):
                deadline.sleep(FRAME_POLL_S)
        else:
            self._forget(run.prompt_id)

    @contextlib.contextmanager
    def _socket(self, client_id: str, deadline: Deadline) -> Iterator[websocket.WebSocket]:
        socket = websocket.create_connection(
            f"ws://{self._address}/ws?clientId={client_id}",
            timeout=min(SUBMIT_TIMEOUT_S, deadline.left_s()),
            http_no_proxy=["*"],
        )
        try:
            yield socket
        finally:
            socket.close(timeout=0)
            # close() leaves the file descriptor open if the server closed first.
            socket.shutdown()  # type: ignore[no-untyped-call]

    def _submit(self, graph: Graph, client_id: str, prompt_id: str, deadline: Deadline) -> None:
        body = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
        response = self._request("POST", "/prompt", body, min(SUBMIT_TIMEOUT_S, deadline.left_s()))
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        # A graph that is only partly valid gets a 200, and only the valid part would run.
        if response.status_code != 200 or answer.get("node_errors"):
            raise WorkflowRejected(_reason(answer, graph) or f"ComfyUI answered with HTTP {response.status_code}")

    def _follow(self, run: Run, socket: websocket.WebSocket, deadline: Deadline, on_progress: OnProgress) -> None:
        heard_s = time.monotonic()
        while not run.finished:
            socket.settimeout(min(FRAME_POLL_S, deadline.left_s()))
            try:
                opcode, payload = socket.recv_data()
            except websocket.WebSocketTimeoutException:
                if time.monotonic() - heard_s > SILENCE_S:
                    self._ask_history(run)
                    heard_s = time.monotonic()
                continue
            heard_s = time.monotonic()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise websocket.WebSocketConnectionClosedException("closed by ComfyUI")
            run.receive(_parse(opcode, payload), heard_s)
            on_progress(run)

    def _ask_history(self, run: Run) -> bool:
        """Returns whether the run is over, and if so finishes it from its entry in /history.

        If ComfyUI is too busy to answer, the run counts as not over; only the job's deadline ends that.

        Raises:
            ComfyUnavailable: ComfyUI does not know the run (it was restarted), or is gone.
        """
        try:
            entry = self._history_entry(run.prompt_id)
            if entry is None:
                # The entry is written when the run leaves the queue: check the queue, then /history once more.
                if self._is_queued(run.prompt_id):
                    return False
                entry = self._history_entry(run.prompt_id)
        except ComfyBusy:
            return False
        if entry is None:
            raise ComfyUnavailable("ComfyUI no longer knows the run")
        run.finish_from(entry)
        self._forget(run.prompt_id)
        return True

    def _history_entry(self, prompt_id: str) -> Mapping[str, Any] | None:
        entry: Mapping[str, Any] | None = self._json("GET", f"/history/{prompt_id}").get(prompt_id)
        return entry

    def _forget(self, prompt_id: str) -> None:
        """Removes the run from ComfyUI's history, which would otherwise grow with every job."""
        with contextlib.suppress(ComfyUnavailable):
            self._request("POST", "/history", {"delete": [prompt_id]})

    def _json(self, method: str, path: str) -> Any:
        response = self._request(method, path)
        try:
            response.raise_for_status()
            return response.json()
        except requests.RequestException as exc:
            raise ComfyUnavailable(f"ComfyUI answered HTTP {response.status_code} without JSON") from exc

    def _request(
        self, method: str, path: str, body: Any = None, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> requests.Response:
        try:
            return self._http.request(method, f"http://{self._address}{path}", json=body, timeout=timeout_s)
        except requests.Timeout as exc:
            raise ComfyBusy(f"ComfyUI did not answer within {timeout_s:g} s") from exc
        except requests.RequestException as exc:
            raise ComfyUnavailable(f"ComfyUI does not answer: {type(exc).__name__}") from exc


def _device(name: str) -> str:
    """Returns the GPU's name out of "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync"; "cpu" stays."""
    return name.partition(" : ")[0].split(" ", maxsplit=1)[-1]


def _parse(opcode: int, payload: bytes) -> Message | PictureFrame | None:
    if opcode == websocket.ABNF.OPCODE_TEXT:
        return parse_text(payload.decode("utf-8", "replace"))
    return parse_binary(payload)


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
