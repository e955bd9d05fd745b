import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import dataclasses, json
from handler.comfyui import gpu
try:
    print(json.dumps({"gpus": [dataclasses.asdict(found) for found in gpu.gpus()], "used": gpu.used_bytes()}))
except gpu.GpuUnavailable as exc:
    print(json.dumps({"reason": str(exc)}))
"""


def ask(folder, **answers):
    """Returns the GPUs that a program sees with the NVIDIA driver in `folder` and these answers of NVML."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)} | answers
    process = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True)
    return json.loads(process.stdout)


def test_a_gpu_is_described_as_the_driver_describes_it(nvidia_driver):
    """Name, memory, driver, CUDA and compute capability come from NVML, through its real calling convention."""
    found = ask(nvidia_driver)
    assert found["gpus"] == [
        {
            "name": "NVIDIA GeForce RTX 4090",
            "memory_bytes": 25_757_220_864,
            "driver": "570.124.06",
            "cuda": [12, 8],
            "compute_capability": [8, 9],
        }
    ]
    assert found["used"] == 500_000_000


def test_every_gpu_counts(nvidia_driver):
    """Each GPU is listed, and the memory in use is that of all."""
    found = ask(nvidia_driver, NVML_COUNT="3")
    assert len(found["gpus"]) == 3
    assert found["used"] == 1_500_000_000


def test_a_driver_without_gpus_is_an_empty_list(nvidia_driver):
    """A container that was given no GPU has a driver and no devices."""
    assert ask(nvidia_driver, NVML_COUNT="0")["gpus"] == []


def test_without_a_driver_the_error_says_how_to_get_one(tmp_path):
    """No libnvidia-ml.so.1: the message names the two usual causes."""
    reason = ask(tmp_path)["reason"]
    assert "libnvidia-ml.so.1" in reason
    assert "--gpus all" in reason


@pytest.mark.parametrize(("status", "words"), [("9", "Driver Not Loaded"), ("18", "version mismatch")])
def test_a_driver_that_does_not_answer_is_an_error_with_its_reason(nvidia_driver, status, words):
    """NVML's own words reach the reader."""
    reason = ask(nvidia_driver, NVML_INIT_STATUS=status)["reason"]
    assert reason.startswith("the NVIDIA driver does not answer: ")
    assert words in reason


def test_unknown_memory_is_zero(nvidia_driver):
    """A MIG partition refuses the whole card's memory (NVML_ERROR_NO_PERMISSION); everything else is known."""
    (found,) = ask(nvidia_driver, NVML_MEMORY_STATUS="4")["gpus"]
    assert found["memory_bytes"] == 0
    assert found["name"] == "NVIDIA GeForce RTX 4090"
