"""What ComfyUI says over its websocket, and what it means for one run: frames in, state out, no I/O.

Messages as of ComfyUI 0.30.0 (server.py, execution.py, main.py): JSON text `{"type", "data"}`;
binary frames of 4 bytes event, 4 bytes format, contents. A run is over with `executing {node: null}`
and its prompt_id, after success, error and interruption alike; only then /history has it.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handler.errors import BadPicture, GenerationError, JobCancelled, NodeFailed

IMAGE_EVENT = 1
PNG_FORMAT = 2
HEADER = struct.Struct(">II")


@dataclass(frozen=True)
class Message:
    """A text frame."""

    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A binary frame with a PNG."""

    png: bytes


@dataclass(frozen=True)
class Progress:
    """How far a node is: `value` of `maximum` steps."""

    node: str
    value: int
    maximum: int


def parse_text(frame: str) -> Message | None:
    """Returns the message, or None for text that is not one of ComfyUI's or that nothing here needs."""
    if frame.startswith('{"type": "progress_state"'):  # large, sent at every step
        return None
    try:
        decoded = json.loads(frame)
    except ValueError:
        return None
    match decoded:
        case {"type": str(kind), "data": dict(data)}:
            return Message(kind, data)
    return None


def parse_binary(frame: bytes) -> Picture | None:
    """Returns the PNG, or None for another kind of frame (preview, text, cut short)."""
    if len(frame) <= HEADER.size or HEADER.unpack_from(frame) != (IMAGE_EVENT, PNG_FORMAT):
        return None
    return Picture(frame[HEADER.size :])


@dataclass
class Run:
    """State of one submitted graph.

    Attributes:
        prompt_id: ComfyUI's name of the run.
        output_node: id of the node whose pictures count.
        pngs: pictures of the output node so far.
        output: what the output node reported in its `executed` message.
        seconds: time spent in each node, by id.
        progress: where the sampler is, while it runs.
        error: how the run failed, once it has.
        finished: whether ComfyUI is done with the run.
        from_history: whether /history told so, not the websocket.
    """

    prompt_id: str
    output_node: str
    pngs: list[bytes] = field(default_factory=list)
    output: Mapping[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    progress: Progress | None = None
    error: GenerationError | None = None
    finished: bool = False
    from_history: bool = False
    _node: str | None = None
    _since_s: float = 0.0

    def receive(self, frame: Message | Picture | None, at_s: float) -> None:
        """Takes the next frame; `at_s` is a monotonic clock's reading in seconds."""
        match frame:
            case Picture(png) if self._node == self.output_node:
                self.pngs.append(png)
            case Message(kind, data) if data.get("prompt_id") == self.prompt_id:
                self._take(kind, data, at_s)

    def finish_from(self, entry: Mapping[str, Any]) -> None:
        """Takes the run's end from its entry in /history, for when the websocket did not bring it."""
        status = entry.get("status") or {}
        for message in status.get("messages") or ():
            match message:
                case [("execution_error" | "execution_interrupted") as kind, dict(data)]:
                    self._fail(kind, data)
        if status.get("status_str") != "success" and self.error is None:
            self.error = NodeFailed("ComfyUI reports a failure without a reason")
        self.output = (entry.get("outputs") or {}).get(self.output_node, self.output)
        self.finished = self.from_history = True

    def result(self) -> tuple[bytes, Mapping[str, Any]]:
        """Returns the PNG and what the output node reported of it.

        Raises:
            GenerationError: the run failed, or gave another number of pictures than one.
        """
        if self.error is not None:
            raise self.error
        if len(self.pngs) != 1 or self.output is None:
            raise BadPicture(f"the workflow gave {len(self.pngs)} pictures, expected 1")
        return self.pngs[0], self.output

    def _take(self, kind: str, data: Mapping[str, Any], at_s: float) -> None:
        match kind:
            case "executing":
                self._enter(data.get("node"), at_s)
            case "executed" if data.get("node") == self.output_node:
                self.output = data.get("output") or {}
            case "progress":
                self._progress(data)
            case "execution_error" | "execution_interrupted":
                self._fail(kind, data)

    def _enter(self, node: str | None, at_s: float) -> None:
        if self._node is not None:
            self.seconds[self._node] = self.seconds.get(self._node, 0.0) + at_s - self._since_s
        self._node, self._since_s = node, at_s
        self.progress = None
        self.finished = node is None

    def _progress(self, data: Mapping[str, Any]) -> None:
        match data:
            case {"node": str(node), "value": int(value), "max": int(maximum)}:
                self.progress = Progress(node, value, maximum)

    def _fail(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "execution_interrupted":
            self.error = JobCancelled("the run was interrupted")
            return
        reason = f"{data.get('exception_type', 'error')}: {data.get('exception_message', '')}".strip()
        self.error = NodeFailed(f"{data.get('node_type', 'a node')} failed with {reason}")
