"""The proxies that the environment names (HTTP_PROXY and the like): never used for loopback, checked before use."""

import os
from typing import Any

import httpx
import socksio

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class BadProxy(Exception):
    """A proxy of the environment cannot be used; the message says why."""


def bypass_for_loopback() -> None:
    """Adds this machine's loopback names to NO_PROXY, for every client in this process and its children.

    Python's clients read `no_proxy` first and `NO_PROXY` only without it, so both are set.
    """
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host for host in map(str.strip, given.split(",")) if host]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


class _Client(httpx.Client):
    """Raises httpx.ProxyError if a SOCKS proxy fails, as httpx does for the others."""

    def send(self, *args: Any, **options: Any) -> httpx.Response:
        try:
            return super().send(*args, **options)
        except socksio.SOCKSError as exc:
            raise httpx.ProxyError(str(exc)) from exc


class _AsyncClient(httpx.AsyncClient):
    """Raises httpx.ProxyError if a SOCKS proxy fails, as httpx does for the others."""

    async def send(self, *args: Any, **options: Any) -> httpx.Response:
        try:
            return await super().send(*args, **options)
        except socksio.SOCKSError as exc:
            raise httpx.ProxyError(str(exc)) from exc


def client(**options: Any) -> httpx.Client:
    """Returns an HTTP client with these options of httpx.Client; raises BadProxy."""
    try:
        return _Client(**options)
    except (ValueError, httpx.InvalidURL) as exc:
        raise _bad(exc) from exc


def async_client(**options: Any) -> httpx.AsyncClient:
    """Returns an HTTP client with these options of httpx.AsyncClient; raises BadProxy."""
    try:
        return _AsyncClient(**options)
    except (ValueError, httpx.InvalidURL) as exc:
        raise _bad(exc) from exc


def _bad(exc: Exception) -> BadProxy:
    return BadProxy(f"a proxy of the environment cannot be used: {exc}")
