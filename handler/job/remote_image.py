"""Fetches the input pictures that a request names by URL, and connects only to public addresses.

A URL comes from a caller, who may not reach what this machine reaches: its own services, the cloud's metadata
service, other machines of its network. So the address that a name stands for is looked up once and checked, and the
connection goes to that address, also after a redirect. Proxies of the environment are not used, because they would
look up the name themselves.
"""

import base64
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import httpcore
import httpx

from handler.deadline import Deadline
from handler.errors import InvalidInput
from handler.job.image_check import MAX_BYTES, BadImage, check
from handler.workflow.input_image import is_url
from handler.workflow.parameter import Parameter
from handler.workflow.parameters import Request

TIMEOUT_S = 20.0
REDIRECTS = 3
OK = 200
REDIRECTED = (301, 302, 303, 307, 308)
HEADERS: dict[bytes | str, bytes | str] = {"Accept": "image/png, image/jpeg, image/webp", "Accept-Encoding": "identity"}

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # addresses of IPv4 for networks that only have IPv6

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Returns whether an address belongs to the public internet, also one of IPv4 within IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:
            return is_public(inner)
        if address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast


class _CheckedBackend(httpcore.NetworkBackend):
    """Looks up names itself, and connects only to addresses that are allowed."""

    def __init__(self, is_allowed: Callable[[Address], bool]) -> None:
        self._sockets = httpcore.SyncBackend()
        self._is_allowed = is_allowed

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError(f"{host} is not a known host") from exc
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not all(self._is_allowed(ipaddress.ip_address(address)) for address in addresses):
            raise httpcore.ConnectError(f"{host} is not a public host")
        for number, address in enumerate(addresses, 1):
            try:
                stream = self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
            else:
                break
        connected, *_ = stream.get_extra_info("socket").getpeername()
        if not self._is_allowed(ipaddress.ip_address(connected)):
            stream.close()
            raise httpcore.ConnectError(f"{host} is not a public host")
        return stream


class RemoteImages:
    """Fetches pictures. Safe to use from several threads."""

    def __init__(
        self, is_allowed: Callable[[Address], bool] = is_public, certificates: ssl.SSLContext | None = None
    ) -> None:
        """Takes the addresses that it may connect to, and the certificates that it trusts; by default public ones."""
        self._is_allowed = is_allowed
        self._certificates = certificates

    def fetched(self, request: Request, parameters: Sequence[Parameter], deadline: Deadline) -> Request:
        """Returns the request with its input pictures as base64 text instead of URLs.

        Raises:
            InvalidInput: a picture cannot be fetched, or is none.
            JobTimeout, JobCancelled: by `deadline`.
        """
        values = dict(request.values)
        for parameter in parameters:
            value = values.get(parameter.name)
            if not parameter.is_image or value is None or not is_url(value):
                continue
            try:
                encoded = self.fetch(value, deadline)
                check(encoded)
            except BadImage as exc:
                raise InvalidInput([f"{parameter.name} {exc}"]) from exc
            values[parameter.name] = base64.b64encode(encoded).decode()
        return replace(request, values=values)

    def fetch(self, url: str, deadline: Deadline) -> bytes:
        """Returns what is at an https URL, with at most MAX_BYTES bytes.

        Raises:
            BadImage: there is none, or it must not be fetched.
            JobTimeout, JobCancelled: by `deadline`.
        """
        end_s = time.monotonic() + min(TIMEOUT_S, deadline.left_s())
        backend = _CheckedBackend(self._is_allowed)
        try:
            with httpcore.ConnectionPool(self._certificates, network_backend=backend) as pool:
                return _followed(pool, httpx.URL(url), end_s, deadline)
        except httpcore.TimeoutException as exc:
            raise BadImage(f"cannot be fetched: no complete answer within {TIMEOUT_S:g} s") from exc
        except (httpcore.NetworkError, httpcore.ProtocolError, httpx.InvalidURL) as exc:
            raise BadImage(f"cannot be fetched: {exc or type(exc).__name__}") from exc


def _followed(pool: httpcore.ConnectionPool, url: httpx.URL, end_s: float, deadline: Deadline) -> bytes:
    """Returns the content at a URL, or at the one that it redirects to."""
    for _ in range(REDIRECTS + 1):
        if url.scheme != "https" or not url.host:
            raise BadImage("cannot be fetched: it leads to a URL that is not https")
        if url.userinfo:
            raise BadImage("cannot be fetched: a URL must not contain a user or password")
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        with pool.stream("GET", target, headers=HEADERS, extensions=_timeouts(end_s)) as response:
            if response.status == OK:
                return _content(response, end_s, deadline)
            location = next((value for name, value in response.headers if name.lower() == b"location"), None)
            if response.status not in REDIRECTED or location is None:
                raise BadImage(f"cannot be fetched: the server answered with status {response.status}")
        url = url.join(location.decode("latin-1"))
    raise BadImage(f"cannot be fetched: there were more than {REDIRECTS} redirects")


def _content(response: httpcore.Response, end_s: float, deadline: Deadline) -> bytes:
    """Returns the body; raises BadImage if it is too large, and httpcore.ReadTimeout if it is too slow."""
    parts = []
    size_bytes = 0
    for part in response.iter_stream():
        parts.append(part)
        size_bytes += len(part)
        if size_bytes > MAX_BYTES:
            raise BadImage(f"has more than {MAX_BYTES} bytes")
        deadline.left_s()
        if time.monotonic() > end_s:
            raise httpcore.ReadTimeout
    return b"".join(parts)


def _timeouts(end_s: float) -> dict[str, dict[str, float]]:
    return {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), max(0.01, end_s - time.monotonic()))}
