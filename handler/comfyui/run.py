"""One run as its websocket frames tell it: frames in, state out, no I/O.

Messages as of ComfyUI 0.30.0 (server.py, execution.py, main.py): JSON text `{"type", "data"}`;
binary frames of 4 bytes event, 4 bytes format, contents. A run ends with `executing {node: null}` and its
prompt_id, whether it succeeded, failed or was interrupted; only then does /history have it.
"""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handler.errors import BadPicture, GenerationError, GpuBroken, JobCancelled, NodeFailed, OutOfMemory

IMAGE_EVENT = 1
PICTURE_FORMATS = (2, 3)  # PNG as in ComfyUI, and WebP as in our output node
HEADER = struct.Struct(">II")
# Texts of PyTorch 2.10: torch.OutOfMemoryError or torch.AcceleratorError on a GPU, RuntimeError of the allocator on
# the CPU; and of its other CUDA errors, those of cuDNN and cuBLAS included.
OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory|not enough memory|can't allocate memory", re.IGNORECASE)
GPU_BROKEN = re.compile(r"AcceleratorError|CUDA error|CUDA driver error|cuDNN|CUBLAS_STATUS|device-side assert")


@dataclass(frozen=True)
class Message:
    """A text frame."""

    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class PictureFrame:
    """A binary frame that carries a picture."""

    encoded: bytes


@dataclass(frozen=True)
class Progress:
    """How far a node is: `value` of `maximum` steps."""

    node: str
    value: int
    maximum: int


def parse_text(frame: str) -> Message | None:
    """Returns the message, or None if the text is not one of ComfyUI's messages or is not needed here."""
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


def parse_binary(frame: bytes) -> PictureFrame | None:
    """Returns the PNG or WebP, or None for any other frame (preview, text, incomplete)."""
    if len(frame) <= HEADER.size:
        return None
    event, picture_format = HEADER.unpack_from(frame)
    if event != IMAGE_EVENT or picture_format not in PICTURE_FORMATS:
        return None
    return PictureFrame(frame[HEADER.size :])


@dataclass
class Run:
    """State of one submitted graph.

    Attributes:
        prompt_id: ComfyUI's id of the run.
        output_node: id of the node whose pictures count.
        pictures: pictures of the output node so far, encoded.
        output: what the output node reported in its `executed` message.
        seconds: time spent in each node, by id.
        progress: progress of the sampler, while it runs.
        error: why the run failed, if it did.
        accepted: whether ComfyUI has accepted the graph.
        unanswered: how many questions about it ComfyUI has left unanswered since its last answer.
        finished: whether ComfyUI is done with the run.
        node: id of the node that runs; None before the first and after the last.
        from_history: whether that is known from /history instead of the websocket.
    """

    prompt_id: str
    output_node: str
    pictures: list[bytes] = field(default_factory=list)
    output: Mapping[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    progress: Progress | None = None
    error: GenerationError | None = None
    accepted: bool = False
    unanswered: int = 0
    finished: bool = False
    from_history: bool = False
    node: str | None = None
    _since_s: float = 0.0

    def receive(self, frame: Message | PictureFrame | None, at_s: float) -> None:
        """Processes the next frame, which arrived at `at_s` on a monotonic clock, in seconds."""
        self.unanswered = 0
        match frame:
            case PictureFrame(encoded) if self.node == self.output_node:
                self.pictures.append(encoded)
            case Message(kind, data) if data.get("prompt_id") == self.prompt_id:
                self._take(kind, data, at_s)

    def finish_from(self, entry: Mapping[str, Any]) -> None:
        """Ends the run with its entry in /history, if the websocket did not deliver the end."""
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
        """Returns the encoded picture and the output node's report about it.

        Raises:
            GenerationError: the run failed, or did not produce exactly one picture.
        """
        if self.error is not None:
            raise self.error
        if len(self.pictures) != 1 or self.output is None:
            raise BadPicture(f"the workflow produced {len(self.pictures)} pictures, expected 1")
        return self.pictures[0], self.output

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
        if self.node is not None:
            self.seconds[self.node] = self.seconds.get(self.node, 0.0) + at_s - self._since_s
        self.node, self._since_s = node, at_s
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
        node = data.get("node_type", "a node")
        # A node pack's module is named after its path on this machine.
        exception_type = str(data.get("exception_type", "error")).rpartition("/")[2]
        reason = f"{exception_type}: {data.get('exception_message', '')}".strip()
        if OUT_OF_MEMORY.search(reason):
            self.error = OutOfMemory(f"{node} ran out of memory: ask for a smaller picture, or use a larger GPU")
        elif GPU_BROKEN.search(reason):
            self.error = GpuBroken(f"{node} failed with {reason}")
        else:
            self.error = NodeFailed(f"{node} failed with {reason}")
