"""Queues of jobs through the RunPod worker and through `serve`: start by stage, gap between jobs, memory, growth."""

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "integration")]

from control_plane import ControlPlane  # noqa: E402
from server import PROGRAM, TINY, Server  # noqa: E402

JOB = {"prompt": "a red apple", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 1}
WARM = 5  # jobs that do not count
OWN = ("total", "comfyui_ready")  # of a job's seconds; the others are nodes
MEMORY_AFTER = (10, 50, 100, 1000)  # jobs
NEAR = 20  # jobs whose median is compared, around job 50 and at the end
FSYNC_COUNTER = Path(__file__).with_name("fsync_counter.c")


class TimedControlPlane(ControlPlane):
    """Notes when each result arrived."""

    def __init__(self):
        super().__init__()
        self.done_s = []

    async def _done(self, request):
        arrived_s, reports = time.monotonic(), len(self.progress)
        response = await super()._done(request)
        if len(self.progress) == reports:  # it was not progress
            self.done_s.append(arrived_s)
        return response


def runpod_loop(jobs: int) -> dict[str, object]:
    """Returns the numbers of one start of the worker and `jobs` queued jobs, after those that make it warm."""
    with TimedControlPlane() as runpod, tempfile.TemporaryFile("w+") as log:
        for number in range(WARM + jobs):
            runpod.submit(str(number), JOB | {"seed": number})
        began_s = time.monotonic()
        environment = os.environ | TINY | {"LOG_FORMAT": "json"} | runpod.environment
        worker = subprocess.Popen([PROGRAM, "worker"], env=environment, stderr=log)
        memory = {}
        try:
            answers = []
            for number in range(1, WARM + jobs + 1):
                answers.append(runpod.result(120))
                if number in MEMORY_AFTER:
                    memory[number] = memory_bytes(worker.pid)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
        stages = start_stages(log)
    seconds = [json.loads(posted["output"]["info"])["seconds"] for _, posted, _ in answers]
    return {
        "start_s": {**stages, "first result": round(runpod.done_s[0] - began_s, 2)},
        **queue_numbers(runpod.done_s, seconds),
        "memory_mb": {
            jobs: {name: round(size / 1e6) for name, size in found.items()} for jobs, found in memory.items()
        },
    }


def serve_loop(jobs: int) -> dict[str, object]:
    """Returns the numbers of one start of `serve` and `jobs` queued jobs, after those that make it warm."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        fsyncs = Path(folder) / "fsyncs"
        data = Path(folder) / "data"
        server = Server(data, QUEUE_LIMIT=str(WARM + jobs), LOG_FORMAT="json", **counting(Path(folder), fsyncs))
        server.output = log
        with server:
            ids = [server.run(**JOB | {"seed": number}) for number in range(WARM + jobs)]
            wait(server, ids[-1 - jobs // 2])
            half = size(fsyncs)
            wait(server, ids[-1])
            counted = round((size(fsyncs) - half) / (jobs // 2), 1) if fsyncs.exists() else None
            memory = memory_bytes(server.process.pid)
        stages = start_stages(log)
        with contextlib.closing(sqlite3.connect(data / "jobs.sqlite3")) as database:
            rows = database.execute("SELECT finished_s, outcome FROM jobs ORDER BY number").fetchall()
    seconds = [json.loads(outcome)["pictures"][0]["info"]["seconds"] for _, outcome in rows]
    return {
        "start_s": stages,
        **queue_numbers([finished_s for finished_s, _ in rows], seconds),
        "memory_mb": {WARM + jobs: {name: round(size / 1e6) for name, size in memory.items()}},
        "fsyncs_per_job": counted,
    }


def queue_numbers(done_s: list[float], seconds: list[dict[str, float]]) -> dict[str, object]:
    """Returns what the moments of results and the seconds of the jobs say about the time around the jobs."""
    spans_s = [after - before for before, after in itertools.pairwise(done_s[WARM:])]
    drawn = seconds[WARM + 1 :]
    totals_ms = [one["total"] * 1e3 for one in drawn]
    gaps_ms = [span_s * 1e3 - total_ms for span_s, total_ms in zip(spans_s, totals_ms, strict=True)]
    outside_ms = [one["total"] * 1e3 - 1e3 * sum(s for name, s in one.items() if name not in OWN) for one in drawn]
    return {
        "jobs": len(drawn) + 1,
        "job_ms": median(totals_ms),
        "outside_the_nodes_ms": median(outside_ms),
        "gap_ms": median(gaps_ms),
        "idle_share": round(sum(gaps_ms) / sum(spans_s) / 1e3, 4),
        "last_jobs_to_job_50": round(median(totals_ms[-NEAR:]) / median(totals_ms[30 : 30 + NEAR]), 3),
    }


def start_stages(log) -> dict[str, float]:
    """Returns what a program logged about its start."""
    log.seek(0)
    return next(json.loads(line)["seconds"] for line in log if '"event": "started"' in line)


def memory_bytes(pid: int) -> dict[str, int]:
    """Returns the resident memory of the handler and of ComfyUI."""
    handler = psutil.Process(pid)
    comfyui = next(child for child in handler.children() if "--port" in child.cmdline())
    return {"handler": handler.memory_info().rss, "ComfyUI": comfyui.memory_info().rss}


def counting(folder: Path, log: Path) -> dict[str, str]:
    """Returns an environment in which each fsync of a program appends a byte to `log`; empty without a C compiler."""
    library = folder / "fsync_counter.so"
    try:
        subprocess.run(["/usr/bin/cc", "-shared", "-fPIC", "-o", library, FSYNC_COUNTER], check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return {}
    return {"LD_PRELOAD": str(library), "FSYNC_LOG": str(log)}


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait(server: Server, job_id: str) -> None:
    while server.http.get(f"{server.jobs}/status-sync/{job_id}", timeout=120).json()["status"] != "COMPLETED":
        pass


def median(values) -> float:
    return round(statistics.median(values), 2)
