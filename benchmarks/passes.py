"""Measures the cost of fewer views: the tiny model's pictures, decoded by a vote of eight, four and one views.

.venv/bin/python benchmarks/passes.py [--count 48] [--first SEED]

Needs `scripts/setup --dev`. Only the decoder's `passes` differs. ComfyUI caches the sampled latents, so after the
first run of a seed a job consists of decoding and PNG.
"""

import argparse
import io
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import tiny_quality  # noqa: E402

from handler.comfyui.process import ComfyProcess  # noqa: E402
from handler.deadline import Deadline  # noqa: E402
from handler.job import profiles  # noqa: E402
from handler.settings import Settings  # noqa: E402

DECODER_NODE = "Alpha Decode"
PASSES = (8, 4, 1)
SIZE = 256
SEEN = 0.05  # a visible difference in alpha

Rgba = npt.NDArray[np.float32]


def main() -> None:
    """Draws, compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    pictures: dict[int, list[Rgba]] = {passes: [] for passes in PASSES}
    seconds: dict[int, list[float]] = {passes: [] for passes in PASSES}
    settings = Settings(profile="tiny", device="cpu", log_level="ERROR")
    workflow = profiles.load(settings)
    decoder = next(node for node, title in workflow.titles.items() if title == DECODER_NODE)
    comfyui = ComfyProcess(settings)
    seeds = range(options.first, options.first + options.count)
    try:
        with Progress(console=Console(stderr=True)) as bars:
            for case in bars.track([tiny_quality.nth_case(seed) for seed in seeds]):
                graph = workflow.render({"prompt": case.prompt, "seed": case.seed, "width": SIZE, "height": SIZE})
                for passes in (0, *PASSES):  # 0: fills the cache and is not counted
                    graph[decoder]["inputs"]["passes"] = passes or 4
                    deadline = Deadline(240)
                    started_s = time.perf_counter()
                    png, _ = comfyui.client(deadline).run(graph, workflow.output_node, deadline).result()
                    if passes:
                        seconds[passes].append(time.perf_counter() - started_s)
                        pictures[passes].append(np.asarray(Image.open(io.BytesIO(png)), np.float32) / 255)
    finally:
        comfyui.stop()
    Console(highlight=False).print(table(pictures, seconds))


def table(pictures: dict[int, list[Rgba]], seconds: dict[int, list[float]]) -> Table:
    """Returns the comparison with eight views; edges are the pixels that are partly transparent with eight views."""
    eight = np.stack(pictures[8])
    edges = (eight[..., 3] > SEEN) & (eight[..., 3] < 1 - SEEN)
    rows = Table("passes", "time", "alpha, all", "alpha, edges", "edges that differ", "colour", box=None)
    for passes, some in pictures.items():
        alpha = np.abs(np.stack(some)[..., 3] - eight[..., 3])
        colour = np.abs(np.stack(some)[..., :3] - eight[..., :3]).mean(-1)
        rows.add_row(
            str(passes),
            f"{statistics.median(seconds[passes]) / statistics.median(seconds[8]):.2f}",
            f"{alpha.mean():.4f}",
            f"{alpha[edges].mean():.3f}",
            f"{(alpha[edges] > SEEN).mean():.0%}",
            f"{(colour * eight[..., 3]).sum() / eight[..., 3].sum():.3f}",
        )
    return rows


if __name__ == "__main__":
    main()
