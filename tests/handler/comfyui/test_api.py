"""Errors of requests that ComfyUI does not answer; the other requests are tested with their callers."""

import socket

import pytest

from handler.comfyui import api
from handler.comfyui.api import Busy, ComfyApi, NoAnswer


def test_a_refused_connection_says_that_comfyui_is_gone():
    """It is not only busy, for which a job would wait."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NoAnswer, match="does not answer") as caught:
        ComfyApi(f"127.0.0.1:{port}").stats()
    assert not isinstance(caught.value, Busy)


@pytest.mark.parametrize("accepts", [True, False])
def test_a_comfyui_that_hangs_is_busy(monkeypatch, accepts):
    """It accepts connections, or has as many waiting as the system allows, and sends nothing."""
    monkeypatch.setattr(api, "ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        address = silent.getsockname()
        waiting = [] if accepts else [socket.create_connection(address)]
        with pytest.raises(Busy):
            ComfyApi(f"127.0.0.1:{address[1]}").stats()
        for connection in waiting:
            connection.close()
