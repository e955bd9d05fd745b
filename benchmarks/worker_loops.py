"""Queues of jobs through the RunPod worker and through `serve`: start by stage, gap between jobs, memory, growth."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "integration")]

import fake_comfyui  # noqa: E402
from control_plane import ControlPlane  # noqa: E402
from server import PROGRAM, TINY, Server  # noqa: E402

JOB = {"prompt": "a red apple", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 1}
WARM = 5  # jobs that do not count
OWN = ("total", "comfyui_ready")  # of a job's seconds; the others are nodes
MEMORY_AFTER = (10, 50, 100, 1000)  # jobs
NEAR = 20  # jobs whose median is compared, around job 50 and at the end
LARGE = 1024  # pixels
DECODING_S = 0.06  # our goals for an H100: 40 ms to decode, 20 ms for the PNG
LATENCY_S = 0.05  # a guess: RunPod's servers are in another data centre
FSYNC_COUNTER = Path(__file__).with_name("fsync_counter.c")


class TimedControlPlane(ControlPlane):
    """Notes when each result arrived. Answers as late as a server that is far away."""

    def __init__(self, latency_s):
        super().__init__()
        self.done_s = []
        self._latency_s = latency_s

    async def _take(self, request):
        await asyncio.sleep(self._latency_s)
        return await super()._take(request)

    async def _done(self, request):
        arrived_s = time.monotonic()
        if json.loads(await request.read()).get("status") != "IN_PROGRESS":
            self.done_s.append(arrived_s)
        await asyncio.sleep(self._latency_s)
        return await super()._done(request)


def runpod_loop(jobs: int, side: int = 64, latency_s: float = 0.0, **own: str) -> dict[str, object]:
    """Returns the numbers of one start of the worker and `jobs` queued jobs, after those that make it warm.

    Args:
        jobs: how many.
        side: of the pictures, in pixels.
        latency_s: how long RunPod's answers take; 0: as on this machine.
        own: environment of the worker.
    """
    with TimedControlPlane(latency_s) as runpod, tempfile.TemporaryFile("w+") as log:
        for number in range(WARM + jobs):
            runpod.submit(str(number), JOB | {"seed": number, "width": side, "height": side})
        began_s = time.monotonic()
        environment = os.environ | TINY | {"LOG_FORMAT": "json"} | runpod.environment | own
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


def large_pictures(jobs: int) -> dict[str, object]:
    """Returns the numbers of a queue of pictures of 1024x1024, for which RunPod's answers take 50 ms.

    ComfyUI is one that speaks its protocol, decodes for as long as a GPU, and always sends the same picture.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo_like(folder / "picture.png")
        fake_comfyui.install(folder / "comfyui", picture=str(folder / "picture.png"), decoding_s=DECODING_S)
        own = {"COMFYUI_DIR": str(folder / "comfyui"), "WORKFLOWS_DIR": str(for_large_pictures(folder / "workflows"))}
        found = runpod_loop(jobs, LARGE, LATENCY_S, WARM_UP="off", **own)
    return {key: found[key] for key in ("jobs", "job_ms", "gap_ms", "idle_share")}


def for_large_pictures(folder: Path) -> Path:
    """Returns a new folder of stored workflows, whose tiny profile accepts LARGE."""
    shutil.copytree(ROOT / "workflows", folder)
    profile = folder / "profiles" / "tiny.json"
    overrides = json.loads(profile.read_text("utf-8"))
    for name in ("width", "height"):
        overrides["request"][name]["maximum"] = LARGE
    profile.write_text(json.dumps(overrides), "utf-8")
    return folder


def photo_like(file: Path) -> None:
    """Writes an RGBA PNG of a disc with some noise, 1.6 MB."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:LARGE, :LARGE] / LARGE
    colour = np.stack((np.sin(3 * x + 2 * y), np.cos(2 * x - 3 * y), x * y), axis=-1)
    colour = 0.5 + 0.25 * colour + 0.02 * rng.standard_normal((LARGE, LARGE, 3))
    alpha = (0.38 - np.hypot(x - 0.5, y - 0.5)) / 0.03
    pixels = (np.dstack((colour, alpha)).clip(0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file)


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
    numbers = {
        "jobs": len(drawn) + 1,
        "job_ms": median(totals_ms),
        "outside_the_nodes_ms": median(outside_ms),
        "gap_ms": median(gaps_ms),
        "idle_share": round(sum(gaps_ms) / sum(spans_s) / 1e3, 4),
    }
    if around_50 := totals_ms[30 : 30 + NEAR]:
        numbers["last_jobs_to_job_50"] = round(median(totals_ms[-NEAR:]) / median(around_50), 3)
    return numbers


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
