"""Runs graphs on ComfyUI over its websocket, as of ComfyUI 0.30.0 (server.py, execution.py)."""

import logging
import socket as sockets
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import websocket

from handler.comfyui.api import ACCEPT_TIMEOUT_S, Busy, ComfyApi, NoAnswer, NoFiles, device_name, with_files
from handler.comfyui.connection import Connection
from handler.comfyui.run import Message, PictureFrame, Run, parse_binary, parse_text
from handler.deadline import Deadline
from handler.errors import ComfyCrashed, GenerationError, InternalError
from handler.workflow.graph import Graph

UNANSWERED = 20  # requests in a row, about a minute and a half; in a suspended machine no time passes for them
FRAME_POLL_S = 0.25
SILENCE_S = 5.0  # after this long without a frame, /history is checked for the end of the run
SUBMISSIONS = 3
INTERRUPT_GRACE_S = 15.0  # an interrupt takes effect at the next step or node
INTERRUPT_POLL_S = 0.05
REMEMBERED_RUNS = 20  # in ComfyUI's history, until one request removes all of them

log = logging.getLogger(__name__)

OnProgress = Callable[[Run], None]
Chunks = Mapping[str, Any]


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
        self._api = ComfyApi(address)
        self._idle: list[Connection] = []  # more than one only after runs at the same time
        self._finished: list[str] = []  # runs that are in ComfyUI's history

    def close(self) -> None:
        """Closes idle connections."""
        self._api.close()
        while self._idle:
            self._idle.pop().close()

    def is_ready(self) -> bool:
        """Returns whether the server answers."""
        try:
            stats = self._api.stats()
        except NoAnswer:
            return False
        system = stats["system"]
        self.versions = {"comfyui": system["comfyui_version"], "torch": system["pytorch_version"]}
        self.device = device_name(stats["devices"][0]["name"])
        return True

    def run(
        self,
        graph: Graph,
        output_node: str,
        deadline: Deadline,
        on_progress: OnProgress | None = None,
        chunks: Chunks | None = None,
    ) -> Run:
        """Returns the finished run of `graph`, with its picture.

        If the websocket breaks, /history says how the run ended. If the picture was lost with it, a second
        run sends it again; ComfyUI then has everything but the output node in its cache.

        Args:
            graph: in API format.
            output_node: id of the node whose picture is wanted.
            deadline: when to give up; the run is then removed from ComfyUI, or `is_stuck` is set.
            on_progress: called with the run after each frame.
            chunks: keyword -> JSON that output nodes may write into pictures.

        Raises:
            WorkflowRejected: ComfyUI does not accept the graph.
            ComfyCrashed: ComfyUI ended, hangs, or forgot the run.
            InternalError: this process has too many open files.
            JobTimeout, JobCancelled: by `deadline`.
        """
        for _ in range(SUBMISSIONS):
            run = Run(str(uuid.uuid4()), output_node)
            try:
                self._run_once(run, graph, chunks, deadline, on_progress or (lambda _: None))
            except NoAnswer as exc:
                self._take_off(run.prompt_id)
                deadline.left_s()  # raises if the job's own time is up
                if isinstance(exc, NoFiles):
                    raise InternalError(str(exc)) from exc
                raise ComfyCrashed(str(exc), run.accepted) from exc
            except GenerationError:
                self._take_off(run.prompt_id)
                raise
            if run.pictures or run.error is not None or not run.from_history:
                return run
            log.warning("picture lost, running again", extra={"prompt_id": run.prompt_id})
        raise ComfyCrashed(f"the connection to ComfyUI broke in {SUBMISSIONS} runs of the graph", begun=True)

    def node_classes(self) -> Any:
        """Returns what ComfyUI says about its node classes; raises NoAnswer if it does not answer."""
        return self._api.node_classes()

    def free(self) -> None:
        """Makes ComfyUI release the models and the memory that it can."""
        self._api.free()

    def _take_off(self, prompt_id: str) -> None:
        """Removes a run from the queue or interrupts it, and waits until it is gone; if it stays, sets `is_stuck`."""
        end_s = time.monotonic() + INTERRUPT_GRACE_S
        try:
            self._api.interrupt(prompt_id)
            while self._api.is_queued(prompt_id):
                if time.monotonic() > end_s:
                    self.is_stuck = True
                    return
                time.sleep(INTERRUPT_POLL_S)
            self._api.forget([prompt_id])
        except NoAnswer as exc:
            self.is_stuck = not isinstance(exc, NoFiles)

    def _run_once(
        self, run: Run, graph: Graph, chunks: Chunks | None, deadline: Deadline, on_progress: OnProgress
    ) -> None:
        connection = self._connect(deadline)
        try:
            client_id, timeout_s = connection.client_id, min(ACCEPT_TIMEOUT_S, deadline.left_s())
            self._api.submit(graph, client_id, run.prompt_id, timeout_s, chunks)
            run.accepted = True
            try:
                self._follow(run, connection.socket, deadline, on_progress)
            except (websocket.WebSocketException, OSError) as exc:
                log.warning("websocket broke", extra={"prompt_id": run.prompt_id, "reason": repr(exc)})
                while not self._ask_history(run):
                    deadline.sleep(FRAME_POLL_S)
        finally:
            if run.finished and not run.from_history:
                self._idle.append(connection)
            else:
                connection.close()
        if not run.from_history:
            self._forget_later(run)

    def _connect(self, deadline: Deadline) -> Connection:
        """Returns a connection that is open: the one of the last run, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            connection.close()
        client_id = uuid.uuid4().hex
        timeout_s = min(ACCEPT_TIMEOUT_S, deadline.left_s())
        host, _, port = self._address.rpartition(":")
        try:
            # websocket-client sends a connection of its own through HTTP_PROXY, whatever its options are.
            plain = with_files(lambda: sockets.create_connection((host, int(port)), timeout_s))
            socket = websocket.create_connection(
                f"ws://{self._address}/ws?clientId={client_id}",
                timeout=timeout_s,
                socket=plain,
                skip_utf8_validation=True,  # in Python, byte by byte; `_parse` replaces what is invalid
            )
        except (websocket.WebSocketException, OSError) as exc:
            raise NoAnswer(f"ComfyUI does not accept connections: {type(exc).__name__}") from exc
        return Connection(client_id, socket)

    def _forget_later(self, run: Run) -> None:
        """Removes the run from the history, together with others."""
        self._finished.append(run.prompt_id)
        if len(self._finished) >= REMEMBERED_RUNS:
            finished, self._finished = self._finished, []
            self._api.forget(finished)

    def _follow(self, run: Run, socket: websocket.WebSocket, deadline: Deadline, on_progress: OnProgress) -> None:
        silent_polls = 0  # not seconds: a machine that was suspended has frames to read before it asks
        while not run.finished:
            socket.settimeout(min(FRAME_POLL_S, deadline.left_s()))
            try:
                opcode, payload = socket.recv_data()
            except websocket.WebSocketTimeoutException:
                silent_polls += 1
                if silent_polls * FRAME_POLL_S > SILENCE_S:
                    self._ask_history(run)
                    silent_polls = 0
                continue
            silent_polls = 0
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise websocket.WebSocketConnectionClosedException("closed by ComfyUI")
            run.receive(_parse(opcode, payload), time.monotonic())
            on_progress(run)

    def _ask_history(self, run: Run) -> bool:
        """Returns whether the run is over, and if so finishes it from its entry in /history.

        If ComfyUI is too busy to answer, the run counts as not over.

        Raises:
            NoAnswer: ComfyUI does not know the run (it was restarted), is gone, or has not answered for long.
        """
        try:
            entry = self._api.history_entry(run.prompt_id)
            if entry is None:
                # The entry is written when the run leaves the queue: check the queue, then /history once more.
                if self._api.is_queued(run.prompt_id):
                    run.unanswered = 0
                    return False
                entry = self._api.history_entry(run.prompt_id)
        except Busy:
            run.unanswered += 1
            if run.unanswered >= UNANSWERED:
                raise
            return False
        if entry is None:
            raise NoAnswer("ComfyUI no longer knows the run")
        run.finish_from(entry)
        self._api.forget([run.prompt_id])
        return True


def _parse(opcode: int, payload: bytes) -> Message | PictureFrame | None:
    if opcode == websocket.ABNF.OPCODE_TEXT:
        return parse_text(payload.decode("utf-8", "replace"))
    return parse_binary(payload)
