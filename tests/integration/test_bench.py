"""scripts/bench measures everything; what does not depend on the machine's speed has its goal."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_quick_run_measures_everything(tmp_path):
    """Counts and memory of the handler meet their goals; times are only there."""
    file = tmp_path / "bench.json"
    done = subprocess.run(
        [ROOT / "scripts" / "bench", "--quick", "--json", file], check=True, capture_output=True, text=True
    )
    numbers = json.loads(file.read_text("utf-8"))
    for ways in numbers["peers"]["ready_made"].values():
        ours, theirs = ways["ours"], ways["worker-comfyui"]
        assert (ours["requests"], ours["sockets"], ours["files"]) == (1, 0, 0)
        assert (theirs["requests"], theirs["sockets"], theirs["files"]) == (4, 5, 1)
    for loop in (numbers["worker"], numbers["serve"]):
        assert loop["gap_ms"] > 0
        assert loop["start_s"]["warm"] > loop["start_s"]["comfyui_ready"]
        assert all(memory["handler"] <= 150 for memory in loop["memory_mb"].values())
    assert done.stdout.count("\n| ") > 20
    assert file.with_suffix(".svg").read_text("utf-8").startswith("<svg")
