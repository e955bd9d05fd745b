"""Every error of the HTTP server in one shape: `{"error": {"code", "message", "details"}}`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from handler.errors import (
    ComfyCrashed,
    ComfyUnavailable,
    GenerationError,
    InternalError,
    InvalidInput,
    JobCancelled,
    JobTimeout,
    LayerdiffuseError,
    ModelMissing,
    NoGpu,
    StorageUnavailable,
    presentable,
)
from handler.server.errors import (
    BadRequest,
    BodyTooLarge,
    JobFailed,
    MethodNotAllowed,
    NotFound,
    QueueFull,
    RequestRejected,
    RequestTimeout,
    TooManyConnections,
)

RETRY_AFTER_S = 5
OPENAI_PREFIX = "/v1/"  # errors there also have the fields `type` and `param`
STATUS_OF_JOB_ERRORS = {
    InvalidInput: 422,
    JobCancelled: 499,
    JobTimeout: 504,
    ModelMissing: 503,
    NoGpu: 503,
    ComfyUnavailable: 503,
    ComfyCrashed: 503,
    StorageUnavailable: 503,
}
KINDS_BY_STATUS = {kind.http_status: kind for kind in (BadRequest, NotFound, MethodNotAllowed, BodyTooLarge)}


class ErrorResponse(JSONResponse):
    """An error; leaves its code in the request's state for the log."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__({"error": {"code": code, "message": message, "details": list(details)}}, status, headers)
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["error_code"] = self._code
        await super().__call__(scope, receive, send)


def install(app: FastAPI) -> None:
    """Makes the application respond to every error in this shape."""
    for kind in (JobFailed, LayerdiffuseError, HTTPException, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(kind, _on_error)


def http_status(kind: type[LayerdiffuseError]) -> int:
    """Returns the HTTP status of a kind of error."""
    return kind.http_status if issubclass(kind, RequestRejected) else STATUS_OF_JOB_ERRORS.get(kind, 500)


def error_response(exc: LayerdiffuseError) -> ErrorResponse:
    """Returns the response to an error that was raised."""
    headers = {}
    if isinstance(exc, QueueFull | TooManyConnections):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(exc, RequestTimeout):
        headers["Connection"] = "close"
    return ErrorResponse(http_status(type(exc)), exc.code, exc.message, exc.details, headers)


def _failed_job_response(exc: JobFailed) -> ErrorResponse:
    code, _, message = exc.error.partition(": ")
    kinds = {kind.code: kind for kind in GenerationError.__subclasses__()}
    return ErrorResponse(http_status(kinds.get(code, InternalError)), code, message)


def invalid_fields(faults: Iterable[Mapping[str, Any]]) -> BadRequest:
    """Returns the faults that pydantic found as one error."""
    details = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]
    return BadRequest("; ".join(details), details)


async def _on_error(request: Request, exc: Exception) -> Response:
    response = _response_to(exc)
    if isinstance(response, JSONResponse) and request.url.path.startswith(OPENAI_PREFIX):
        error = json.loads(bytes(response.body))["error"]
        kind = "invalid_request_error" if response.status_code < 500 else "server_error"
        headers = {name: value for name, value in response.headers.items() if name == "retry-after"}
        return JSONResponse({"error": {**error, "type": kind, "param": None}}, response.status_code, headers)
    return response


def _response_to(exc: Exception) -> Response:
    match exc:
        case JobFailed():
            return _failed_job_response(exc)
        case LayerdiffuseError():
            return error_response(exc)
        case RequestValidationError():
            return error_response(invalid_fields(exc.errors()))
        case ClientDisconnect():
            return error_response(JobCancelled("client disconnected"))
        case HTTPException():
            kind = KINDS_BY_STATUS.get(exc.status_code, BadRequest)
            response = error_response(kind(presentable(str(exc.detail))))
            response.headers.update(exc.headers or {})
            return response
    raise exc
