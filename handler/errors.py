"""All errors, grouped by cause; each kind has a stable code.

A job that ends without a picture:

    GenerationError
    ├── InvalidInput         invalid_input         caused by the caller
    ├── JobCancelled         cancelled             by the caller
    ├── JobTimeout           timeout
    ├── WorkflowInvalid      workflow_invalid      caused by the stored workflow
    ├── WorkflowRejected     workflow_rejected     ComfyUI rejected the graph
    ├── ModelMissing         model_missing         caused by the installation
    ├── NoGpu                no_gpu                no GPU that can be used
    ├── NodeFailed           node_failed           a node raised
    ├── OutOfMemory          out_of_memory         the GPU's memory is too small for the picture
    ├── ComfyUnavailable     comfyui_unavailable   ComfyUI does not start, or was given up
    ├── ComfyCrashed         comfyui_crashed       ComfyUI was lost in every attempt
    ├── BadPicture           bad_picture           not the picture that was asked for
    ├── NotTransparent       not_transparent       the picture is opaque or empty
    ├── ReplyTooLarge        reply_too_large
    ├── StorageUnavailable   storage_unavailable   the job file or the folder of pictures cannot be used
    └── InternalError        internal              a bug in the worker

Rejected HTTP requests: handler.server.errors.

Messages go to callers. They contain no traceback, path, host name or secret.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

MESSAGE_CHARACTERS = 600
QUOTED_PATH = re.compile(r"""(["'`])(?:[A-Za-z]:\\|\\\\|~?/)[^"'`]*[/\\]([^"'`/\\]*)\1""")
ABSOLUTE_PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:\\|\\\\|~?/)(?:[^\s'\"`:;,()\[\]{}<>|]+[/\\])+")


class LayerdiffuseError(Exception):
    """Base of all errors.

    Attributes:
        code: stable name of the kind of error.
        message: one line for the caller.
        details: the parts of the message, if there are several.
    """

    code: ClassVar[str]

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        self.message = presentable(message)
        self.details = tuple(presentable(detail) for detail in details)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class GenerationError(LayerdiffuseError):
    """A job that ends without a picture."""


class InvalidInput(GenerationError):
    code = "invalid_input"

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults), faults)


class JobCancelled(GenerationError):
    code = "cancelled"


class JobTimeout(GenerationError):
    code = "timeout"


class WorkflowInvalid(GenerationError):
    code = "workflow_invalid"


class WorkflowRejected(GenerationError):
    code = "workflow_rejected"


class ModelMissing(GenerationError):
    code = "model_missing"


class NoGpu(GenerationError):
    code = "no_gpu"


class NodeFailed(GenerationError):
    code = "node_failed"


class GpuBroken(NodeFailed):
    """CUDA failed in a node; most such errors stay until the process ends."""


class OutOfMemory(GenerationError):
    code = "out_of_memory"


class ComfyUnavailable(GenerationError):
    code = "comfyui_unavailable"


class ComfyCrashed(GenerationError):
    """ComfyUI ended, does not answer, or no longer knows the run.

    Attributes:
        begun: whether it had accepted the graph.
    """

    code = "comfyui_crashed"

    def __init__(self, message: str, begun: bool = False) -> None:
        super().__init__(message)
        self.begun = begun


class ComfyBroken(ComfyCrashed):
    """ComfyUI can no longer draw, and will not recover by itself."""


class BadPicture(GenerationError):
    code = "bad_picture"


class NotTransparent(GenerationError):
    code = "not_transparent"


class ReplyTooLarge(GenerationError):
    code = "reply_too_large"


class StorageUnavailable(GenerationError):
    code = "storage_unavailable"


class InternalError(GenerationError):
    code = "internal"


def presentable(text: str) -> str:
    """Returns `text` as one line of valid Unicode, absolute paths cut to their last part, 600 characters maximum."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    line = ABSOLUTE_PATH.sub("", QUOTED_PATH.sub(r"\1\2\1", line))
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"
