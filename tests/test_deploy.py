"""The files in deploy/ are valid, by each system's own tool if it is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PORT = 8000


def check(*command, **environment):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def development_tool(name):
    return str(Path(sys.executable).with_name(name))


def has_compose(*command):
    return (
        shutil.which(command[0]) is not None
        and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode
    )


def test_compose_s_schema():
    """The file fits the Compose Specification's schema, without unknown keys."""
    schema = ("--builtin-schema", "vendor.compose-spec")
    check(development_tool("check-jsonschema"), "--quiet", *schema, str(DEPLOY / "compose.yaml"))


def test_compose():
    """Compose itself accepts the file: Docker's plugin, or the program that was before it."""
    command = next(filter(lambda command: has_compose(*command), [("docker", "compose"), ("docker-compose",)]), None)
    if command is None:
        pytest.skip("docker has no compose; the schema was checked")
    check(*command, "-f", str(DEPLOY / "compose.yaml"), "config", "-q", API_KEYS="x")


def test_kubernetes():
    """The manifest fits Kubernetes' own schemas, without unknown fields."""
    check(
        development_tool("kubernetes-validate"),
        "--strict",
        "--quiet",
        str(DEPLOY / "kubernetes.yaml"),
    )


def test_systemd(tmp_path):
    """systemd accepts the unit."""
    unit = tmp_path / "layerdiffuse-alpha.service"
    unit.write_text((DEPLOY / unit.name).read_text().replace("/opt/layerdiffuse-alpha", str(ROOT)))
    check("systemd-analyze", "verify", "--man=no", str(unit))


def test_the_manifests_agree_with_the_image():
    """The port is the one that the image exposes, and the volume is where DATA_DIR is."""
    image = (ROOT / "Dockerfile").read_text()
    assert f"EXPOSE {PORT}" in image
    assert "DATA_DIR=/data" in image
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    assert service["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert service["volumes"] == ["data:/data"]
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == PORT
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}
