import contextlib
import dataclasses

import pytest
from fastapi.testclient import TestClient
from painter import Up, painted_service, serving

from handler.server import app
from handler.server.app import make_app
from handler.server.readiness import Readiness
from handler.settings import Settings

SETTLE = app._settle


@pytest.fixture(autouse=True)
def unsettled(monkeypatch):
    """Saves each server the half second of CPU time that it spends before the first request comes."""
    monkeypatch.setattr(app, "_settle", lambda _: None)


@pytest.fixture
def settled(monkeypatch):
    """For tests of what is done in that half second."""
    monkeypatch.setattr(app, "_settle", SETTLE)


@pytest.fixture
def make(tmp_path):
    """Makes a client of a server with these settings: `make(queue_limit=…)`."""
    clients = []

    def make(prepare=lambda: None, check_weights=lambda: None, buckets=None, **more):
        service, painter = painted_service(
            Settings(**{"profile": "tiny", "data_dir": tmp_path, "job_timeout_s": 20, **more}), buckets
        )
        service = dataclasses.replace(service, readiness=Readiness(prepare, check_weights, Up()))
        client = TestClient(make_app(service), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
        client.__enter__()
        client.painter, client.service = painter, service
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.painter.go_on.set()
        client.__exit__(None, None, None)
        client.service.store.close()


@pytest.fixture
def client(make):
    return make()


@pytest.fixture
def serve_painted(tmp_path):
    """Serves on a loopback port: `serve_painted()` returns its URL, the service and the painter behind it."""
    with contextlib.ExitStack() as running:

        def serve_painted(**more):
            service, painter = painted_service(Settings(profile="tiny", data_dir=tmp_path / "data", **more))
            url = running.enter_context(serving(service))
            running.callback(painter.go_on.set)
            return url, service, painter

        yield serve_painted
