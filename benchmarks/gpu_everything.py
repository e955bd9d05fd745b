"""Everything that a GPU decides (docs/gpu.md), in one run with a time limit: parts, jobs with several options, verify.

After each step the results so far are written to `gpu.json` and `gpu.txt`, so that a run which is cut off is not lost.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_jobs

from handler.cli.verify_verdicts import cost
from handler.comfyui.machine import on_cpu
from handler.errors import GenerationError
from handler.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PARTS_SHARE = 0.4  # of all the time, at most; the lines that take long come last
VERIFY_SHARE = 0.3
JOBS_LEFT_S = 45.0  # a start of ComfyUI and some jobs need about this
TFLOP = {
    "U-Net step": 13.52,
    "VAE decode": 10.5,
    "8-view decode": 6.85,
}  # at 1024x1024; the step has two pictures (CFG)
FULL = {"vram": "full"}
OPTIONS = {
    "full": FULL,
    "dynamic VRAM": {"vram": "dynamic"},
    "full, fp16 accumulation": FULL | {"comfyui_args": "--fast fp16_accumulation"},
    "full, PyTorch's attention": FULL | {"attention": "pytorch"},
    "--highvram": {"comfyui_args": "--highvram"},
    "full, autotune": FULL | {"comfyui_args": "--fast autotune"},
}
OPTIONS_ON_CPU = {name: OPTIONS[name] for name in ("full", "full, fp16 accumulation")}


def run(options) -> None:
    """Runs all steps for which there is time."""
    Everything(options).run()


class Everything:
    def __init__(self, options):
        self.options = options
        self.end_s = time.monotonic() + options.minutes * 60
        self.results = {"parts": [], "jobs": {}, "verify": None, "skipped": []}
        profile = "tiny" if options.tiny else "sdxl"
        self.settings = Settings(profile=profile, models_dir=options.models, alpha_check="accept", job_timeout_s=120)
        self.python = self.settings.comfyui_dir / "venv" / "bin" / "python"
        options.out.mkdir(parents=True, exist_ok=True)

    def run(self):
        making = None
        if not self.options.tiny:  # takes a minute or two of the CPU, while `verify` uses the GPU
            command = [self.python, ROOT / "tools" / "make_random_models.py", "--models", self.options.models]
            making = subprocess.Popen(command)
        self.step("verify, tiny model", JOBS_LEFT_S, self.verify)
        if making is not None and making.wait():
            sys.exit("the weights could not be made")
        self.step("parts", JOBS_LEFT_S, self.parts)
        chosen = OPTIONS_ON_CPU if on_cpu(self.settings) else OPTIONS
        for name, changes in chosen.items():
            self.step(f"jobs, {name}", JOBS_LEFT_S, lambda name=name, changes=changes: self.jobs(name, changes))
        print((self.options.out / "gpu.txt").read_text("utf-8"))

    def step(self, name, least_s, work):
        left_s = self.end_s - time.monotonic()
        if left_s < least_s:
            self.results["skipped"].append(f"{name}: {left_s:.0f} s left")
        else:
            print(f"{name}, {left_s:.0f} s left", file=sys.stderr, flush=True)
            begin_s = time.monotonic()
            work()
            print(f"{name}: {time.monotonic() - begin_s:.0f} s", file=sys.stderr, flush=True)
        (self.options.out / "gpu.json").write_text(json.dumps(self.results, indent=2) + "\n", "utf-8")
        (self.options.out / "gpu.txt").write_text("\n".join(lines(self.results)) + "\n", "utf-8")

    def verify(self):
        # Not `-m handler`, which also imports what a bundle does not have.
        program = "import typer; from handler.cli.verify import verify; typer.run(verify)"
        command = [sys.executable, "-c", program, "--report", self.options.out / "verify"]
        self.results["verify"] = self.output(
            "verify", command, VERIFY_SHARE, os.environ | {"PROFILE": "tiny"}
        ).splitlines()

    def parts(self):
        size = ["--tiny", "--size", "128", "--rounds", "2"] if self.options.tiny else ["--size", "1024"]
        command = [self.python, ROOT / "benchmarks" / "gpu_parts.py", "--models", self.options.models, *size]
        printed = self.output("parts", command, PARTS_SHARE, os.environ)
        found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        for part in found:
            tflop = next((size for name, size in TFLOP.items() if part["name"].startswith(name)), 0)
            if tflop and "ms" in part and not self.options.tiny:
                part["tflop"] = tflop
        self.results["parts"] = found

    def jobs(self, name, changes):
        settings = self.settings.model_copy(update=changes | {"start_timeout_s": 120.0})
        try:
            self.results["jobs"][name] = gpu_jobs.measured(settings, self.options.jobs)
        except GenerationError as exc:
            self.results["jobs"][name] = {"error": str(exc)}

    def output(self, name, command, share, environment):
        """Returns what the command prints, also if it fails, or is killed after this share of the time."""
        path = self.options.out / "output.txt"
        with path.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(command, stdout=file, env=environment)
            try:
                status = process.wait(min(share * self.options.minutes * 60, self.end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = "killed, it took too long"
        printed = path.read_text("utf-8")
        path.unlink()
        if status:
            self.results["skipped"].append(f"{name}: {status}")
        return printed


def lines(results):
    """Returns the results as Markdown."""
    found = ["## Parts", "", "| part | ms | least | TFLOP/s | peak, GB | |", "|---|---|---|---|---|---|"]
    for part in results["parts"]:
        more = {
            fact: value for fact, value in part.items() if fact not in {"name", "ms", "least_ms", "peak_gb", "tflop"}
        }
        rate = f"{part['tflop'] / part['ms'] * 1e3:.0f}" if part.get("tflop") else ""
        cells = part["name"], part.get("ms", ""), part.get("least_ms", ""), rate, part.get("peak_gb", "")
        found.append(
            f"| {' | '.join(map(str, cells))} | {' '.join(f'{fact}={value}' for fact, value in more.items())} |"
        )
    for name, numbers in results["jobs"].items():
        found += ["", f"## Jobs, {name}", "", *([numbers["error"]] if "error" in numbers else job_lines(numbers))]
    found += ["", "## verify, tiny model", "", *(f"    {line}" for line in results["verify"] or ["not run"])]
    return [*found, "", *(f"Not finished: {what}" for what in results["skipped"])]


def job_lines(numbers):
    total_s = numbers["seconds"]["total"]
    price = cost(gpu_jobs.gpu_name() or "the CPU", total_s, numbers["warm_s"])
    dollars = (
        [f"{price['usd_per_picture'] * 1e3:.2f} dollars for 1000 pictures"] if price.get("usd_per_picture") else []
    )
    return [*gpu_jobs.table(numbers), "", f"options: {numbers['options']}", *dollars]
