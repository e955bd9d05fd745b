#!/usr/bin/env python3
"""Measures the RunPod worker around the GPU's work: start by stage, gap between queued jobs, overhead, memory.

    .venv/bin/python benchmarks/worker.py [--quick] [--json FILE]

The worker is the real one, with the SDK's protocol, the tiny model and the CPU; RunPod's side is tests/integration/
control_plane.py. The table is on standard output.
"""

import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "integration")]

from control_plane import ControlPlane  # noqa: E402

PROGRAM = ROOT / ".venv" / "bin" / "layerdiffuse-alpha"
JOB = {"prompt": "a red apple", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 4}
STAGES = {
    "ComfyUI starting": "imports, until ComfyUI's process starts",
    "ComfyUI ready": "ComfyUI is ready",
    "warm-up finished": "weights read, patched, first picture drawn",
}
WARM = 5  # jobs that do not count
OWN = ("total", "comfyui_ready")


class TimedControlPlane(ControlPlane):
    """Notes when each result arrived."""

    def __init__(self):
        super().__init__()
        self.done_s = []

    async def _done(self, request):
        self.done_s.append(time.monotonic())
        return await super()._done(request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 jobs instead of 200")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    options = parser.parse_args()
    numbers = measure(20 if options.quick else 200)
    print("| what | value |\n|---|---|")
    for name, value in numbers.items():
        print(f"| {name} | {value} |")
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n", "utf-8")


def measure(jobs: int) -> dict[str, object]:
    """Returns the numbers by name, from one start of the worker and `jobs` queued jobs after the warm ones."""
    own = {"PROFILE": "tiny", "DEVICE": "cpu", "ALPHA_CHECK": "accept"}
    with TimedControlPlane() as runpod:
        for number in range(WARM + jobs):
            runpod.submit(str(number), JOB | {"seed": number})
        began_s = time.monotonic()
        worker = subprocess.Popen(
            [PROGRAM, "worker"], env=os.environ | own | runpod.environment, stderr=subprocess.PIPE, text=True
        )
        reached_s: dict[str, float] = {}
        threading.Thread(target=read_stages, args=(worker.stderr, began_s, reached_s), daemon=True).start()
        try:
            answers = []
            for number in range(WARM + jobs):
                answers.append(runpod.result(120))
                if number == WARM:
                    first_bytes = memory_bytes(worker.pid)
            last_bytes = memory_bytes(worker.pid)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
    seconds = [json.loads(posted["output"]["info"])["seconds"] for _, posted, _ in answers]
    spans_s = [after - before for before, after in zip(runpod.done_s[WARM:], runpod.done_s[WARM + 1 :], strict=False)]
    drawn = seconds[WARM + 1 :]
    gaps_ms = [(span_s - one["total"]) * 1e3 for span_s, one in zip(spans_s, drawn, strict=True)]
    nodes_s = [sum(value for stage, value in one.items() if stage not in OWN) for one in drawn]
    overhead_ms = [(one["total"] - node_s) * 1e3 for one, node_s in zip(drawn, nodes_s, strict=True)]
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "CPUs": os.cpu_count(),
        "jobs": jobs,
        **{f"start, s: {STAGES[line]}": round(reached_s[line], 1) for line in STAGES},
        "start, s: first result": round(runpod.done_s[0] - began_s, 1),
        "job, ms": median(one["total"] * 1e3 for one in drawn),
        "overhead outside the nodes, ms": median(overhead_ms),
        "gap between two jobs, ms": median(gaps_ms),
        "share of the time without a job": f"{sum(gaps_ms) / sum(spans_s) / 1e3:.1%}",
        **{f"memory, MB: {name}, first": round(size / 1e6) for name, size in first_bytes.items()},
        **{f"memory, MB: {name}, last": round(size / 1e6) for name, size in last_bytes.items()},
    }


def median(values) -> float:
    return round(statistics.median(values), 1)


def read_stages(lines, began_s: float, reached_s: dict[str, float]) -> None:
    """Notes when each of STAGES is first logged; reads to the end, so that the worker never waits for the pipe."""
    for line in lines:
        for stage in STAGES:
            if stage in line:
                reached_s.setdefault(stage, time.monotonic() - began_s)


def memory_bytes(pid: int) -> dict[str, int]:
    """Returns the resident memory of the handler and of ComfyUI."""
    handler = psutil.Process(pid)
    comfyui = next(child for child in handler.children() if "--port" in child.cmdline())
    return {"handler": handler.memory_info().rss, "ComfyUI": comfyui.memory_info().rss}


if __name__ == "__main__":
    main()
