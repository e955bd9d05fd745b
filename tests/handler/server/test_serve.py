"""The address that the server listens on, and its data folder."""

import contextlib
import http.client
import socket
import time
from pathlib import Path

import pytest

from handler.errors import StorageUnavailable
from handler.server import serve
from handler.settings import Settings

EVERY_IPV4 = "0.0.0.0"  # noqa: S104 -- on a free port, for a moment


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("::", ["127.0.0.1", "::1"]), (EVERY_IPV4, ["127.0.0.1"]), ("::1", ["::1"]), ("127.0.0.1", ["127.0.0.1"])],
)
def test_the_address_is_reached(host, addresses):
    """`::` listens on IPv4 and IPv6."""
    with serve._listening(Settings(listen_host=host, port=0)) as listener:
        for address in addresses:
            socket.create_connection((address, listener.getsockname()[1]), 5).close()


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_named(host):
    """The error has the address and the reason."""
    with pytest.raises(serve.CannotListen, match=f"cannot listen on {host}:0: .+"):
        serve._listening(Settings(listen_host=host, port=0))


@pytest.mark.soak
def test_an_idle_connection_outlives_a_balancer_s(serve_painted):
    """A balancer that keeps connections for 60 s never sends a request into one that is just being closed."""
    url, *_ = serve_painted()
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)) as connection:
        for pause_s in (0, 61):
            time.sleep(pause_s)
            connection.request("GET", "/ping")
            assert connection.getresponse().read() == b""  # RemoteDisconnected if it was closed meanwhile


def test_a_port_that_is_not_allowed_is_not_the_data_folder_s_fault(as_another_user):
    """PORT=80 as a normal user is about the port."""
    folder, become = as_another_user
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("any user may use port 80")
    become()
    with (
        pytest.raises(serve.CannotListen, match="127.0.0.1:80: Permission denied; ports below"),
        serve._lock(folder / "lock"),
    ):
        serve._listening(Settings(port=80))


def test_a_data_folder_that_cannot_be_written_is_named(as_another_user):
    """The error is about DATA_DIR, and has the reason."""
    folder, become = as_another_user
    folder.chmod(0o500)
    become()
    with pytest.raises(StorageUnavailable, match="DATA_DIR cannot be written: Permission denied"):  # noqa: SIM117
        with serve._lock(folder / "lock"):
            raise AssertionError("locked")
