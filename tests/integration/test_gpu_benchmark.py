"""The benchmark of a GPU, on the CPU with the tiny model, so that no minute on a GPU is lost to a mistake in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_everything_is_measured(tmp_path):
    """Every part and every set of options has its numbers; only what needs CUDA has an error."""
    command = [ROOT / "benchmarks" / "gpu.py", "--everything", "--tiny", "--jobs", "2", "--minutes", "14"]
    subprocess.run([sys.executable, *command, "--out", tmp_path], check=True)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {part["name"]: part["error"] for part in found["parts"] if "error" in part} == {
        "U-Net step, CUDA graph": "needs CUDA"
    }
    assert len(found["parts"]) > 25
    assert [numbers["seconds"]["total"] > 0 for numbers in found["jobs"].values()] == [True] * 2
    assert "everything passed, profile tiny" in found["verify"]
    assert found["skipped"] == []
    assert (tmp_path / "gpu.txt").read_text().count("| ") > 50


@pytest.mark.soak
def test_a_bundle_is_small_and_runs(tmp_path):
    """It has ComfyUI and what a machine with PyTorch lacks; here, its own environment takes the machine's place."""
    bundle = tmp_path / "bundle"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    program = [ROOT / "benchmarks" / "gpu.py"]
    subprocess.run([sys.executable, *program, "--bundle", bundle, "--python", version], check=True)
    assert sum(path.stat().st_size for path in bundle.iterdir()) < 20 << 20
    python = ROOT / ".comfyui" / "venv" / "bin" / "python"
    subprocess.run(
        [python, *program, "--from", bundle, "--everything", "--tiny", "--minutes", "0", "--out", tmp_path], check=True
    )
    skipped = json.loads((tmp_path / "gpu.json").read_text())["skipped"]
    assert len(skipped) == 4
