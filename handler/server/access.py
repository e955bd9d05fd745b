"""Access to the HTTP server: with an API key, or, if it has no keys, from this machine only."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from handler.server.error_responses import error_response
from handler.server.errors import BadRequest, Unauthorized

OPEN_PATHS = ("/ping", "/")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class KeyCheck:
    """Rejects requests without a valid key, except to OPEN_PATHS."""

    def __init__(self, app: ASGIApp, keys: list[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._has_key(scope):
            response = error_response(
                Unauthorized("the header Authorization must be Bearer and an API key of this server")
            )
            response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = sent.partition(b" ")
        found = [hmac.compare_digest(key.strip(), own) for own in self._keys]
        return scheme.lower() == b"bearer" and any(found)


class HostCheck:
    """Rejects requests whose Host header is not one of these names.

    Another site can make its own name point to this machine, but then its pages send that name as Host.
    """

    def __init__(self, app: ASGIApp, names: list[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _name(dict(scope["headers"]).get(b"host", b"")) not in self._names:
            await error_response(BadRequest(f"Host must be one of {', '.join(self._names)}"))(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _name(host: bytes) -> str | None:
    try:
        return urlsplit(f"//{host.decode('latin-1')}").hostname
    except ValueError:
        return None
