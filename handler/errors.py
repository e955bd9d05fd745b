"""Everything that can go wrong, by whose fault it is; each kind has a stable code.

A job that ends without a picture:

    GenerationError
    ├── InvalidInput         invalid_input         the caller's
    ├── JobCancelled         cancelled             the caller's wish
    ├── JobTimeout           timeout
    ├── WorkflowInvalid      workflow_invalid      the stored workflow's
    ├── WorkflowRejected     workflow_rejected     ComfyUI refused the graph
    ├── ModelMissing         model_missing         the installation's
    ├── NodeFailed           node_failed           a node raised
    ├── ComfyUnavailable     comfyui_unavailable   ComfyUI did not start, ended or does not answer
    ├── BadPicture           bad_picture           what came is not the picture that was asked for
    ├── NotTransparent       not_transparent       a picture, but opaque or empty
    ├── ReplyTooLarge        reply_too_large
    ├── StorageUnavailable   storage_unavailable   the job file or the folder of pictures cannot be used
    └── InternalError        internal              a fault in the worker itself

A request over HTTP that does not become a job, or names none:

    RequestRefused
    ├── BadRequest           bad_request           no JSON object, or a field of the envelope is wrong
    ├── Unauthorized         unauthorized
    ├── NotFound             not_found
    ├── MethodNotAllowed     method_not_allowed
    ├── Conflict             conflict              the job is not in a state for that
    ├── BodyTooLarge         body_too_large
    ├── NotJson              unsupported_media_type
    └── QueueFull            queue_full

Messages go to callers: they carry no traceback, path, host name or secret.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

MESSAGE_CHARACTERS = 600
QUOTED_PATH = re.compile(r"""(["'`])(?:[A-Za-z]:\\|\\\\|~?/)[^"'`]*[/\\]([^"'`/\\]*)\1""")
ABSOLUTE_PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:\\|\\\\|~?/)(?:[^\s'\"`:;,()\[\]{}<>|]+[/\\])+")


class LayerdiffuseError(Exception):
    """What every kind has in common.

    Attributes:
        code: stable name of the kind of error.
        http_status: what the HTTP boundary answers.
        message: one line for the caller.
        details: single facts that the message is made of, where there are several.
    """

    code: ClassVar[str]
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        self.message = presentable(message)
        self.details = tuple(presentable(detail) for detail in details)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class GenerationError(LayerdiffuseError):
    """A job that ends without a picture."""


class RequestRefused(LayerdiffuseError):
    """A request over HTTP that does not become a job, or names none."""


class InvalidInput(GenerationError):
    code = "invalid_input"
    http_status = 422

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults), faults)


class JobCancelled(GenerationError):
    code = "cancelled"
    http_status = 499


class JobTimeout(GenerationError):
    code = "timeout"
    http_status = 504


class WorkflowInvalid(GenerationError):
    code = "workflow_invalid"


class WorkflowRejected(GenerationError):
    code = "workflow_rejected"


class ModelMissing(GenerationError):
    code = "model_missing"
    http_status = 503


class NodeFailed(GenerationError):
    code = "node_failed"


class ComfyUnavailable(GenerationError):
    code = "comfyui_unavailable"
    http_status = 503


class BadPicture(GenerationError):
    code = "bad_picture"


class NotTransparent(GenerationError):
    code = "not_transparent"


class ReplyTooLarge(GenerationError):
    code = "reply_too_large"


class StorageUnavailable(GenerationError):
    code = "storage_unavailable"
    http_status = 503


class InternalError(GenerationError):
    code = "internal"


class BadRequest(RequestRefused):
    code = "bad_request"
    http_status = 400


class Unauthorized(RequestRefused):
    code = "unauthorized"
    http_status = 401


class NotFound(RequestRefused):
    code = "not_found"
    http_status = 404


class MethodNotAllowed(RequestRefused):
    code = "method_not_allowed"
    http_status = 405


class Conflict(RequestRefused):
    code = "conflict"
    http_status = 409


class BodyTooLarge(RequestRefused):
    code = "body_too_large"
    http_status = 413


class NotJson(RequestRefused):
    code = "unsupported_media_type"
    http_status = 415


class QueueFull(RequestRefused):
    code = "queue_full"
    http_status = 429


def presentable(text: str) -> str:
    """Returns `text` on one line, valid Unicode, absolute paths cut to their last part, at most 600 characters."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    line = ABSOLUTE_PATH.sub("", QUOTED_PATH.sub(r"\1\2\1", line))
    return line if len(line) <= MESSAGE_CHARACTERS else line[: MESSAGE_CHARACTERS - 1] + "…"
