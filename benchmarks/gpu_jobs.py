"""Whole jobs through the worker, by stage: what benchmarks/gpu.py runs once, and --everything with several options."""

import base64
import json
import statistics
import subprocess
import time

from handler.cli.verify_machine import MemorySampler
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.job import preparation, reply
from handler.job.generate import Generator
from handler.job.picture import Outcome, PictureFacts
from handler.job.profiles import load

# 287 TFLOP: 20 steps with CFG, VAE decode and eight decoder passes at 1024x1024, at the dense fp16
# rate with fp32 accumulation of each chip. Calculated; seconds.
FLOOR_S = {"4090": 1.74, "A100": 0.92, "H100": 0.29, "H200": 0.29}


def measured(settings, count):
    """Returns the numbers of one ComfyUI: seconds of its start and first picture, then medians of `count` jobs."""
    with MemorySampler() as sampler, ComfyProcess(settings) as comfyui:
        generator = Generator(load(settings), comfyui, settings)
        begin_s = time.monotonic()
        generator.start()
        start_s = time.monotonic() - begin_s
        preparation.first_picture(generator, "fast")
        warm_s = time.monotonic() - begin_s
        infos, reply_s = run(generator, settings, count)
        options = comfyui.options().reasons
    memory = sampler.memory()
    return {
        "options": dict(options),
        "start_s": start_s,
        "warm_s": warm_s,
        "seconds": medians(infos),
        "reply_s": statistics.median(reply_s),
        "peak_gb": memory.peak_bytes / 1e9 if memory else None,
        "info": {name: infos[0][name] for name in ("device", "checkpoint", "width", "height", "steps", "versions")},
    }


def run(generator, settings, count):
    """Returns the `info` of each job and the seconds from its picture to its reply. Each has its own seed."""
    infos, reply_s = [], []
    for seed in range(count):
        request = generator.parse({"prompt": "a red apple", "seed": seed})
        picture = generator.generate(request, Deadline(settings.job_timeout_s))
        begin_s = time.perf_counter()
        outcome = Outcome((PictureFacts.of(picture, None),))
        answer = json.dumps(reply.build(outcome, [picture.encoded], reply.Shape.of(settings)))
        reply_s.append(time.perf_counter() - begin_s)
        assert base64.b64encode(picture.encoded).decode() in answer
        infos.append(picture.info)
    return infos, reply_s


def medians(infos):
    """Returns the median seconds of each stage, of what is between the stages, and of the whole job."""
    stages = dict.fromkeys(stage for info in infos for stage in info["seconds"])
    found = {stage: statistics.median(info["seconds"].get(stage, 0.0) for info in infos) for stage in stages}
    total_s = found.pop("total")
    return {**found, "between the stages": total_s - sum(found.values()), "total": total_s}


def table(numbers):
    """Returns the lines of a Markdown table of the stages."""
    seconds, info = numbers["seconds"], numbers["info"]
    peak = f", GPU memory {numbers['peak_gb']:.1f} GB" if numbers["peak_gb"] else ""
    lines = [
        f"{info['device']}; {info['checkpoint']}, {info['width']}x{info['height']}, {info['steps']} steps",
        f"start {numbers['start_s']:.1f} s, warm after {numbers['warm_s']:.1f} s{peak}",
        "",
        "| stage | median, ms | share |",
        "|---|---|---|",
    ]
    lines += [f"| {stage} | {part * 1e3:.1f} | {part / seconds['total']:.1%} |" for stage, part in seconds.items()]
    lines.append(f"| reply, after the total | {numbers['reply_s'] * 1e3:.1f} | |")
    for name, floor_s in FLOOR_S.items():
        if name in info["device"] and (info["width"], info["steps"]) == (1024, 20):
            times = seconds["total"] / floor_s
            lines += ["", f"At best {floor_s} s by arithmetic alone: {times:.1f} times as long."]
    return lines


def gpu_name() -> str:
    """Returns the name of the first NVIDIA GPU, or nothing."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""
