"""The HTTP server keeps what its own /openapi.json promises, whatever it is sent (schemathesis)."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from painter import painted_service

from handler.server.serve import Server
from handler.settings import Settings

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.parametrize("examples", [8, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_every_answer_is_one_that_is_documented(tmp_path, examples):
    """No 5xx, no status, type or shape that /docs does not show."""
    service, painter = painted_service(Settings(profile="tiny", data_dir=tmp_path / "data"))
    server = Server(service)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json"
    command = [Path(sys.executable).with_name("schemathesis"), "run", address]
    options = [
        "--checks",
        CHECKS,
        "--max-examples",
        str(examples),
        "--seed",
        "1",
        "--no-color",
        "--phases",
        "examples,coverage,fuzzing",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=tmp_path)
    painter.go_on.set()
    server.should_exit = True
    thread.join(30)
    service.store.close()
    assert done.returncode == 0, done.stdout
