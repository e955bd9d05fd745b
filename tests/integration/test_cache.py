"""What ComfyUI keeps from one job to the next."""

import pytest

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.job.generate import Generator
from handler.job.profiles import load

# A host whose other containers have taken almost all memory: ComfyUI asks psutil, which sees the host.
LITTLE_MEMORY = """
import psutil

real = psutil.virtual_memory
psutil.virtual_memory = lambda: real()._replace(available=100_000_000)
NODE_CLASS_MAPPINGS = {}
"""
LOADED_ONCE = {"Checkpoint", "Transparency Patch"}


@pytest.fixture
def crowded(settings, with_pack):
    """A generator on a host that is short of memory."""
    changed = with_pack(settings, "little_memory", LITTLE_MEMORY)
    with ComfyProcess(changed) as process:
        yield Generator(load(changed), process, changed)


def test_the_checkpoint_stays_loaded_on_a_host_that_is_short_of_memory(crowded, small):
    """ComfyUI's default cache drops even the current graph's checkpoint then, and loads it in every job."""
    jobs = [
        crowded.generate(crowded.parse({**small, "seed": seed}), Deadline(120)).info["seconds"].keys()
        for seed in range(4)
    ]
    assert jobs[0] >= LOADED_ONCE
    assert [stages & LOADED_ONCE for stages in jobs[1:]] == [set()] * 3
