#!/usr/bin/env python3
"""Times whole jobs through the worker, stage by stage, and compares with the GPU's theoretical minimum.

    .venv/bin/python benchmarks/gpu.py            # SDXL's shapes, 1024x1024, 20 steps: a CUDA machine
    .venv/bin/python benchmarks/gpu.py --tiny     # the same on the tiny model, to try the benchmark on a CPU

If weights of SDXL's shapes are missing, random ones are made (7.9 GB). The worker is warm. Each job has its
own seed, so that nothing comes from ComfyUI's cache. Values are medians over the jobs. Then
benchmarks/decode.py compares the decoder alone with the old pack's.
"""

import argparse
import base64
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.progress import track  # noqa: E402

from handler.comfyui.process import ComfyProcess  # noqa: E402
from handler.deadline import Deadline  # noqa: E402
from handler.job import preparation, reply  # noqa: E402
from handler.job.generate import Generator  # noqa: E402
from handler.job.picture import Outcome  # noqa: E402
from handler.job.profiles import load  # noqa: E402
from handler.settings import Settings  # noqa: E402

# 287 TFLOP: 20 steps with CFG, VAE decode and eight decoder passes at 1024x1024, at the dense fp16
# rate with fp32 accumulation of each chip. Calculated; seconds.
FLOOR_S = {"4090": 1.74, "A100": 0.92, "H100": 0.29, "H200": 0.29}
COMFYUI_PYTHON = ROOT / ".comfyui" / "venv" / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model, at its own size")
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="models folder; weights are made in it")
    options = parser.parse_args()
    if not options.tiny:
        command = [COMFYUI_PYTHON, ROOT / "tools" / "make_random_models.py"]
        subprocess.run([*command, "--models", options.models], check=True)
    # Pictures of random weights may be opaque.
    profile = "tiny" if options.tiny else "sdxl"
    settings = Settings(profile=profile, models_dir=options.models, alpha_check="accept")
    with ComfyProcess(settings) as comfyui:
        report(*run_jobs(Generator(load(settings), comfyui, settings), settings, options.jobs))
    sizes = ["256"] if options.tiny else ["1024"]
    subprocess.run([COMFYUI_PYTHON, ROOT / "benchmarks" / "decode.py", "--size", *sizes], check=True)


def run_jobs(generator, settings, count):
    """Returns the `info` of each job and the seconds from its picture to its reply."""
    generator.start()
    preparation.first_picture(generator, "fast")
    infos, reply_s = [], []
    for seed in track(range(count), "jobs", transient=True):
        request = generator.parse({"prompt": "a red apple", "seed": seed})
        picture = generator.generate(request, Deadline(settings.job_timeout_s))
        begin = time.perf_counter()
        answer = json.dumps(reply.build(Outcome.of(picture, None), picture.encoded, reply.Shape.of(settings)))
        reply_s.append(time.perf_counter() - begin)
        assert base64.b64encode(picture.encoded).decode() in answer
        infos.append(picture.info)
    return infos, reply_s


def report(infos, reply_s) -> None:
    gpu = gpu_name()
    first = infos[0]
    print(f"{gpu or 'CPU'}; {first['checkpoint']}, {first['width']}x{first['height']}, {first['steps']} steps")
    print(f"versions {first['versions']}; {len(infos)} jobs\n")
    print("| stage | median, ms | share |\n|---|---|---|")
    medians = {
        stage: statistics.median(info["seconds"].get(stage, 0.0) for info in infos) for stage in first["seconds"]
    }
    whole = medians.pop("total")
    rest = whole - sum(medians.values())
    for stage, seconds in {**medians, "between the stages": rest, "total": whole}.items():
        print(f"| {stage} | {seconds * 1e3:.1f} | {seconds / whole:.1%} |")
    print(f"| reply, after the total | {statistics.median(reply_s) * 1e3:.1f} | |")
    for name, floor_s in FLOOR_S.items():
        if name in gpu and (first["width"], first["steps"]) == (1024, 20):
            print(f"\nAt best {floor_s} s by arithmetic alone: {whole / floor_s:.1f} times as long.")


def gpu_name() -> str:
    """Returns the name of the first NVIDIA GPU, or nothing."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


if __name__ == "__main__":
    main()
