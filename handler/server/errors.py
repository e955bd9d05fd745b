"""HTTP requests that are rejected before a job is created, or that name no job.

    RequestRejected
    ├── BadRequest           bad_request           not a JSON object, or a field around the input is wrong
    ├── Unauthorized         unauthorized
    ├── ForeignOrigin        foreign_origin        a page of another site sent it
    ├── NotFound             not_found
    ├── MethodNotAllowed     method_not_allowed
    ├── Conflict             conflict              the job is in the wrong state for it
    ├── BodyTooLarge         body_too_large
    ├── NotJson              unsupported_media_type
    ├── QueueFull            queue_full
    ├── RequestTimeout       request_timeout       the client sent it too slowly
    └── TooManyConnections   too_many_connections

Errors of jobs are in handler.errors.
"""

from typing import ClassVar

from handler.errors import LayerdiffuseError


class JobFailed(Exception):
    """A job finished without a result, for the reason `error`: "code: message" of an error in handler.errors."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class RequestRejected(LayerdiffuseError):
    """An HTTP request that is rejected before a job is created, or that names no job.

    Attributes:
        http_status: status of the response.
    """

    http_status: ClassVar[int]


class BadRequest(RequestRejected):
    code = "bad_request"
    http_status = 400


class Unauthorized(RequestRejected):
    code = "unauthorized"
    http_status = 401


class ForeignOrigin(RequestRejected):
    code = "foreign_origin"
    http_status = 403


class NotFound(RequestRejected):
    code = "not_found"
    http_status = 404


class MethodNotAllowed(RequestRejected):
    code = "method_not_allowed"
    http_status = 405


class Conflict(RequestRejected):
    code = "conflict"
    http_status = 409


class BodyTooLarge(RequestRejected):
    code = "body_too_large"
    http_status = 413


class NotJson(RequestRejected):
    code = "unsupported_media_type"
    http_status = 415


class QueueFull(RequestRejected):
    code = "queue_full"
    http_status = 429


class RequestTimeout(RequestRejected):
    code = "request_timeout"
    http_status = 408


class TooManyConnections(RequestRejected):
    code = "too_many_connections"
    http_status = 503
