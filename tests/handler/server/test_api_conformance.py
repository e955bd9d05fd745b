"""The HTTP server conforms to its own /openapi.json for any request (schemathesis)."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.parametrize(
    ("phases", "examples"),
    [
        ("examples,fuzzing", 8),
        pytest.param("examples,coverage,fuzzing", 300, marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
)
def test_every_answer_is_one_that_is_documented(tmp_path, serve_painted, phases, examples):
    """No 5xx, no status, type or shape that /docs does not show."""
    url, *_ = serve_painted()
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json"]
    options = [
        "--checks",
        CHECKS,
        "--max-examples",
        str(examples),
        "--seed",
        "1",
        "--no-color",
        "--phases",
        phases,
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
