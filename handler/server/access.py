"""Access to the HTTP server: with an API key, or, if it has no keys, from this machine only."""

import hmac
import re
from urllib.parse import urlsplit

from pydantic import AnyHttpUrl
from starlette.types import ASGIApp, Receive, Scope, Send

from handler.server.error_responses import error_response
from handler.server.errors import BadRequest, ForeignOrigin, Unauthorized
from handler.server.signing import UrlSigner

OPEN_PATHS = ("/ping", "/", "/docs", "/openapi.json")
OPEN_FOLDERS = ("/page/", "/static-offline-docs/")  # styles and scripts of the web page and of /docs
FILES_PATH = "/alpha/v1/file/"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
REPEATED_SLASHES = re.compile("//+")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def origin_of(url: AnyHttpUrl) -> str:
    """Returns a URL's origin as browsers write it."""
    port = "" if url.port == {"http": 80, "https": 443}[url.scheme] else f":{url.port}"
    return f"{url.scheme}://{url.host}{port}"


class KeyCheck:
    """Rejects requests without a valid key, except to what is open and to pictures with a signed URL."""

    def __init__(self, app: ASGIApp, keys: list[str], signer: UrlSigner) -> None:
        self._app = app
        self._signer = signer
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (self._is_open(scope) or self._has_key(scope)):
            response = error_response(
                Unauthorized("the header Authorization must be Bearer and an API key of this server")
            )
            response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return True
        is_picture = path.startswith(FILES_PATH) and scope["method"] in SAFE_METHODS
        return is_picture and self._signer.is_valid(path.removeprefix(FILES_PATH), scope["query_string"])

    def _has_key(self, scope: Scope) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        scheme, blank, key = sent.strip().partition(b" ")
        if not blank:  # RunPod accepts a bare key, and its own examples send one
            scheme, key = b"bearer", scheme
        found = [hmac.compare_digest(key.strip(), own) for own in self._keys]
        return scheme.lower() == b"bearer" and any(found)


class PlainPaths:
    """Joins repeated slashes in paths: RunPod's Go client requests `/v2//{endpoint}/run`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "//" in scope["path"]:
            scope = {**scope, "path": REPEATED_SLASHES.sub("/", scope["path"])}
        await self._app(scope, receive, send)


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


class OriginCheck:
    """Rejects requests that change something if a browser sends them for a page of another site.

    Browsers send `Origin` with every such request, and new ones `Sec-Fetch-Site`; other clients send neither.
    """

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        """`origins` are allowed besides the server's own, which is the one that `Host` names."""
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            headers = dict(scope["headers"])
            origin = headers.get(b"origin", b"").decode("latin-1")
            if not self._is_allowed(origin, headers):
                error = ForeignOrigin(f"{origin or 'a page of another site'} is not one of CORS_ORIGINS")
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, origin: str, headers: dict[bytes, bytes]) -> bool:
        if not origin:
            return headers.get(b"sec-fetch-site") != b"cross-site"
        host = headers.get(b"host", b"").decode("latin-1").lower()
        return origin in self._origins or origin in {f"http://{host}", f"https://{host}"}


def _name(host: bytes) -> str | None:
    try:
        return urlsplit(f"//{host.decode('latin-1')}").hostname
    except ValueError:
        return None
