"""One log line for each response that is an error."""

import logging
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.errors import InternalError
from handler.server.error_responses import error_response

PATH_CHARACTERS = 100

log = logging.getLogger(__name__)


class RequestLog:
    """Logs responses with status 400 and above, and responds with 500 to an exception that no one expected."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if status:  # uvicorn closes the connection, and logs the exception
                raise
            error = InternalError("internal error, see the worker log")
            await error_response(error)(scope, receive, send)
            log.exception("request failed", extra=_fields(scope, 500))
        else:
            if status >= 500:
                log.warning("request failed", extra=_fields(scope, status))
            elif status >= 400:
                log.info("request rejected", extra=_fields(scope, status))


def _fields(scope: Scope, status: int) -> dict[str, Any]:
    route = getattr(scope.get("route"), "path", None) or scope["path"][:PATH_CHARACTERS]
    state = scope.get("state", {})
    optional = {
        "code": state.get("error_code"),
        "job_id": state.get("job_id") or scope.get("path_params", {}).get("job_id"),
    }
    return {
        "method": scope["method"],
        "route": route,
        "status": status,
        **{name: value for name, value in optional.items() if value},
    }
