#!/usr/bin/env python3
"""Times whole jobs through the worker, stage by stage, and compares with the GPU's theoretical minimum.

    .venv/bin/python benchmarks/gpu.py               # SDXL's shapes, 1024x1024, 20 steps: a CUDA machine
    .venv/bin/python benchmarks/gpu.py --tiny        # the same on the tiny model, to try the benchmark on a CPU
    .venv/bin/python benchmarks/gpu.py --everything  # also each part alone, other options, and `verify`

If weights of SDXL's shapes are missing, random ones are made (7.9 GB). The worker is warm. Each job has its own seed,
so that nothing comes from ComfyUI's cache. Values are medians over the jobs.

For a machine with PyTorch but without network: `--bundle FOLDER` writes what is missing there (gpu_bundle.py); there,
`python3 benchmarks/gpu.py --everything --from FOLDER` runs with the machine's own PyTorch.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import gpu_bundle  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model, at its own size")
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="models folder; weights are made in it")
    parser.add_argument("--everything", action="store_true", help="all that docs/gpu.md lists")
    parser.add_argument("--minutes", type=float, default=9, help="with --everything: when it starts nothing more")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="with --everything: folder for results")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="write what a bare machine needs, and end")
    parser.add_argument("--python", default="3.12", help="with --bundle: the bare machine's version of Python")
    parser.add_argument("--from", type=Path, metavar="FOLDER", dest="bare", help="run on a bare machine, from a bundle")
    options = parser.parse_args()
    if options.bundle:
        gpu_bundle.write(options.bundle, options.python)
        return
    if options.bare:
        environment = gpu_bundle.unpack(options.bare)
        arguments = [argument for argument in sys.argv if argument not in {"--from", str(options.bare)}]
        os.execve(sys.executable, [sys.executable, *arguments], os.environ | environment)  # noqa: S606
    if options.everything:
        import gpu_everything

        gpu_everything.run(options)
        return
    import gpu_jobs

    from handler.settings import Settings

    settings = Settings(profile="tiny" if options.tiny else "sdxl", models_dir=options.models, alpha_check="accept")
    python = settings.comfyui_dir / "venv" / "bin" / "python"
    if not options.tiny:
        command = [python, ROOT / "tools" / "make_random_models.py", "--models", options.models]
        subprocess.run(command, check=True)
    numbers = gpu_jobs.measured(settings, options.jobs)
    print("\n".join(gpu_jobs.table(numbers)))
    size = "256" if options.tiny else "1024"
    subprocess.run([python, ROOT / "benchmarks" / "decode.py", "--size", size], check=True)


if __name__ == "__main__":
    main()
