"""What other tools make of /openapi.json: none of them has anything to say, and the clients compile."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GENERATORS = Path(__file__).with_name("generators")
OVERRIDES = "content_type_overrides:\n  image/png: application/octet-stream\n  image/webp: application/octet-stream\n"
TYPESCRIPT = """
import type { components, operations } from "./api";
export const request: components["schemas"]["RunRequest"] = {
  input: { prompt: "x", num_images: 2 }, policy: { ttl: 60000 },
};
export type Job = operations["status"]["responses"]["200"]["content"]["application/json"];
export const seconds = (job: Job) => (job.executionTime ?? 0) / 1000;
"""


def run(*command, folder):
    # The generator for Python formats its client with the ruff next to it.
    path = f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "PATH": path}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def description(client, tmp_path):
    """A folder with /openapi.json in a file."""
    (tmp_path / "openapi.json").write_text(json.dumps(client.get("/openapi.json").json()))
    return tmp_path


@pytest.fixture
def packages(description):
    """The same folder with the npm packages."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    shutil.copytree(GENERATORS, description, dirs_exist_ok=True)
    run("npm", "ci", "--silent", "--ignore-scripts", folder=description)
    return description


@pytest.mark.soak
def test_redocly_finds_nothing(packages):
    """With its recommended rules."""
    (packages / "redocly.yaml").write_text("extends: [recommended]\n")
    report = run("npx", "redocly", "lint", "--format", "json", "openapi.json", folder=packages)
    found, _ = json.JSONDecoder().raw_decode(report[report.index("{") :])
    assert [(problem["ruleId"], problem["message"]) for problem in found["problems"]] == []


@pytest.mark.soak
def test_typescript_compiles(packages):
    """The types, and a program that uses them; one that uses them wrongly does not compile."""
    options = ("--default-non-nullable=false", "-o", "api.ts")  # a field with a default may be left out
    said = run("npx", "openapi-typescript", "openapi.json", *options, folder=packages)
    assert "warn" not in said.lower()
    compiler = ("npx", "tsc", "--noEmit", "--strict", "--skipLibCheck", "use.ts")
    (packages / "use.ts").write_text(TYPESCRIPT)
    run(*compiler, folder=packages)
    (packages / "use.ts").write_text(TYPESCRIPT.replace("num_images: 2", "num_images: 'two'"))
    done = subprocess.run(compiler, cwd=packages, capture_output=True, text=True, check=False)
    assert "Type 'string' is not assignable to type 'number'" in done.stdout


@pytest.mark.soak
def test_the_python_client_draws(description, serve_painted):
    """openapi-python-client warns of nothing, and its client submits a job and reads its result."""
    uv = ROOT / ".tools" / "bin" / "uv"
    python = description / "venv" / "bin" / "python"
    run(uv, "venv", "--quiet", "--python", sys.executable, "venv", folder=description)
    lock = ROOT / "requirements" / "generators.txt"
    run(uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, lock, folder=description)
    (description / "config.yaml").write_text(OVERRIDES)
    options = ["--path", "openapi.json", "--config", "config.yaml", "--meta", "none", "--output-path", "alpha"]
    said = run(python.with_name("openapi-python-client"), "generate", *options, folder=description)
    assert "warn" not in said.lower()
    url, _, _ = serve_painted()
    program = f"""
import compileall, time
assert compileall.compile_dir("alpha", quiet=1)
from alpha import Client
from alpha.api.run_pods_job_api import run, status
from alpha.models import JobInput, RunRequest
client = Client({url!r})
accepted = run.sync("local", client=client, body=RunRequest(input_=JobInput(prompt="x", num_images=2)))
while (job := status.sync("local", accepted.id, client=client)).status != "COMPLETED":
    time.sleep(0.05)
print([picture.width for picture in job.output.images])
"""
    assert run(python, "-c", program, folder=description).strip() == "[128, 128]"
