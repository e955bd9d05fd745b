"""Each suite runs in the environment of what it tests: nodes and training beside torch, everything else without it."""

import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
WITH_TORCH = {"custom_nodes", "training"}

everything = {path.name for path in HERE.iterdir() if path.is_dir() or path.name.startswith("test_")}
collect_ignore = sorted(everything - WITH_TORCH if find_spec("torch") else WITH_TORCH)

settings.register_profile("unhurried", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def nvidia_driver(tmp_path_factory):
    """A folder for LD_LIBRARY_PATH: a process that starts with it sees an NVIDIA driver and a GPU (nvml.c)."""
    folder = tmp_path_factory.mktemp("nvidia")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, HERE / "nvml.c"], check=True)
    return folder
