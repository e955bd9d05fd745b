#!/usr/bin/env python3
"""Measures the worker around the GPU's work, with the tiny model on the CPU, next to worker-comfyui's way.

    .venv/bin/python benchmarks/worker.py [--quick] [--json FILE]

One run: stock ComfyUI with both ways in turn (worker_peers.py), the real RunPod worker against RunPod's side of the
protocol, and the real server, each with a queue of jobs (worker_loops.py). The tables are on standard output.
"""

import argparse
import datetime
import json
import os
from pathlib import Path

import worker_loops
import worker_peers

WAYS = ("ours", "worker-comfyui")
ROWS = {
    "job_ms": "whole job, ms",
    "outside_the_nodes_ms": "outside the nodes, ms",
    "cpu_ms": "CPU time of handler and ComfyUI, ms",
    "as_json_ms": "reply to JSON, ms",
    "reply_bytes": "reply, bytes",
    "requests": "requests to ComfyUI",
    "sockets": "new sockets",
    "files": "files written",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="queues of 50 jobs instead of 1,000")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the numbers to FILE, and a chart next to it"
    )
    options = parser.parse_args()
    numbers = measure(jobs=50 if options.quick else 1000, compared=6 if options.quick else 50)
    print(tables(numbers))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n", "utf-8")
        options.json.with_suffix(".svg").write_text(chart(numbers), "utf-8")


def measure(jobs: int, compared: int) -> dict[str, object]:
    """Returns the numbers of everything; `compared` jobs each way are in turn with worker-comfyui's."""
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "peers": worker_peers.compare(compared),
        "worker": worker_loops.runpod_loop(jobs),
        "serve": worker_loops.serve_loop(jobs),
        "far_away": worker_loops.large_pictures(min(jobs // 2, 100)),
    }


def tables(numbers) -> str:
    """Returns the numbers as Markdown."""
    peers, loops = numbers["peers"], [numbers["worker"], numbers["serve"]]
    lines = [f"{numbers['date']}, {numbers['cpus']} CPUs", ""]
    lines += ["| one warm job, ready-made picture | ours | worker-comfyui's way | ratio |", "|---|---|---|---|"]
    for side, ways in peers["ready_made"].items():
        for key, name in ROWS.items():
            lines.append(row(f"{side}x{side}: {name}", *(ways[way][key] for way in WAYS)))
    first = "start to the first finished job, s"
    lines.append(row(first, numbers["worker"]["start_s"]["first result"], peers["stock_first_result_s"]))
    lines += ["", "| queue of jobs | RunPod worker | `serve` |", "|---|---|---|"]
    names = ("jobs", "job_ms", "outside_the_nodes_ms", "gap_ms", "idle_share", "last_jobs_to_job_50", "fsyncs_per_job")
    lines += [f"| {name} | {' | '.join(str(loop.get(name, '')) for loop in loops)} |" for name in names]
    far_away = numbers["far_away"]
    for name in ("gap_ms", "idle_share"):
        lines.append(f"| {name}, 1024x1024, RunPod's answers take 50 ms | {far_away[name]} | |")
    for stage in loops[0]["start_s"]:
        lines.append(f"| start, s: {stage} | {' | '.join(str(loop['start_s'].get(stage, '')) for loop in loops)} |")
    for jobs in sorted({jobs for loop in loops for jobs in loop["memory_mb"]}):
        found = [loop["memory_mb"].get(jobs, {}) for loop in loops]
        for name in ("handler", "ComfyUI"):
            cells = " | ".join(str(each.get(name, "")) for each in found)
            lines.append(f"| memory after {jobs} jobs, MB: {name} | {cells} |")
    return "\n".join(lines)


def row(name: str, ours: float, theirs: float) -> str:
    ratio = f"{ours / theirs:.2f}" if theirs else ""
    return f"| {name} | {ours} | {theirs} | {ratio} |"


def chart(numbers) -> str:
    """Returns an SVG with a pair of bars for each comparison, each pair on its own scale."""
    peers = numbers["peers"]
    large = peers["ready_made"][max(peers["ready_made"], key=int)]
    pairs = {
        "1024x1024 picture, whole job, ms": {way: large[way]["job_ms"] for way in WAYS},
        "1024x1024 picture, outside the nodes, ms": {way: large[way]["outside_the_nodes_ms"] for way in WAYS},
        "start to the first job, s": {
            "ours": numbers["worker"]["start_s"]["first result"],
            "stock ComfyUI": peers["stock_first_result_s"],
        },
    }
    parts, y = [], 10
    for title, bars in pairs.items():
        parts.append(f'<text x="10" y="{y + 14}" font-weight="bold">{title}</text>')
        for (way, value), colour in zip(bars.items(), ("#2e7d32", "#757575"), strict=True):
            y += 22
            width = round(340 * value / max(bars.values()), 1)
            parts.append(f'<text x="10" y="{y + 14}">{way}</text>')
            parts.append(f'<rect x="130" y="{y + 2}" width="{width}" height="16" fill="{colour}"/>')
            parts.append(f'<text x="{136 + width}" y="{y + 14}">{value:g}</text>')
        y += 34
    style = 'font-family="sans-serif" font-size="13" fill="#222"'
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="560" height="{y}" {style}>{background}{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main()
