import dataclasses
import socket
import threading

import pytest
from fastapi.testclient import TestClient
from painter import painted_service

from handler.server.app import make_app
from handler.server.serve import Server
from handler.settings import Settings


@pytest.fixture
def make(tmp_path):
    """Makes a client of a server with these settings: `make(queue_limit=…)`."""
    clients = []

    def make(prepare=lambda: None, buckets=None, **more):
        service, painter = painted_service(
            Settings(profile="tiny", data_dir=tmp_path, job_timeout_s=20, **more), buckets
        )
        service = dataclasses.replace(service, prepare=prepare)
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
    running = []

    def serve_painted():
        service, painter = painted_service(Settings(profile="tiny", data_dir=tmp_path / "data"))
        server = Server(service)
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        running.append((server, thread, service, painter))
        return f"http://127.0.0.1:{listener.getsockname()[1]}", service, painter

    yield serve_painted
    for server, thread, service, painter in running:
        painter.go_on.set()
        server.should_exit = True
        thread.join(30)
        service.store.close()
