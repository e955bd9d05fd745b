#!/usr/bin/env python3
"""Runs the server, or with --runpod the worker, under load and faults, and checks that no job is lost or doubled.

scripts/soak --jobs 500 --faults 50 --seed 1 [--minutes 60] [--runpod] [--log FILE]

The last line sums up; the exit status is 1 if a job was lost, doubled, or failed although another attempt helps.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "integration")]

from tools.soak.soak import Options, Recovery, Report  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--faults", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1, help="decides which fault happens when")
    parser.add_argument("--minutes", type=float, default=60, help="no job and no fault begins after this time")
    parser.add_argument("--runpod", action="store_true", help="the RunPod worker, with a stand-in for RunPod's side")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the program's log in this file")
    wanted = parser.parse_args()
    if wanted.runpod:
        from tools.soak.worker_soak import soak
    else:
        from tools.soak.server_soak import soak
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        options = Options(wanted.jobs, wanted.faults, wanted.seed, wanted.minutes, Path(folder))
        try:
            with Progress(*columns, console=Console(stderr=True)) as progress:
                task = progress.add_task("starting", total=wanted.jobs)
                report = soak(options, lambda done, fault: progress.update(task, completed=done, description=fault))
        finally:
            if wanted.log is not None:
                shutil.copy(Path(folder) / "program.log", wanted.log)
    print("\n".join([*table(report.recoveries), "", *findings(report), "", last_line(report)]))
    return int(is_bad(report))


def table(recoveries: list[Recovery]) -> list[str]:
    """Returns a Markdown table with a row for each kind of fault."""
    by_kind: dict[str, list[Recovery]] = defaultdict(list)
    for one in recoveries:
        by_kind[one.kind].append(one)
    rows = ["| fault | times | recovery, s, median | worst | stop, s, worst |", "|---|---|---|---|---|"]
    for kind, found in sorted(by_kind.items()):
        times_s = [one.recovery_s for one in found if one.recovery_s is not None]
        stops_s = [one.stop_s for one in found if one.stop_s is not None]
        never = len(found) - len(times_s)
        cells = [
            f"{statistics.median(times_s):.1f}" if times_s else "",
            (f"{max(times_s):.1f}" if times_s else "") + (f", {never} never" if never else ""),
            f"{max(stops_s):.1f}" if stops_s else "",
        ]
        rows.append(f"| {kind} | {len(found)} | {' | '.join(cells)} |")
    return rows


def findings(report: Report) -> list[str]:
    """Returns what the last line does not say, a line each."""
    ledger = report.ledger
    lines = [f"seconds: {report.seconds:.0f}"]
    if report.cold_starts_s:
        lines.append(
            f"cold starts: {len(report.cold_starts_s)}, {statistics.median(report.cold_starts_s):.1f} s in the median,"
            f" {max(report.cold_starts_s):.1f} s at worst"
        )
    lines.append("ends: " + ", ".join(f"{count} {status}" for status, count in sorted(ledger.counts().items())))
    lines.append(f"submissions that were cut off: {ledger.unanswered}; descriptors: {report.descriptor_growth:+d}")
    lines += [f"not tried: {kind}: {reason}" for kind, reason in report.skipped.items()]
    lines += [f"lost: {job.key}: {job.status}" for job in ledger.lost]
    lines += [f"doubled: {job.key}: {job.answers} {job.posts}" for job in ledger.doubled]
    lines += [f"failed: {job.key}: {job.status} {job.error}" for job in ledger.failed]
    if ledger.drawn_for_no_one:
        lines.append(f"pictures drawn for no one: {ledger.drawn_for_no_one}")
    if ledger.missing_pictures:
        lines.append(f"pictures missing: {ledger.missing_pictures}")
    return lines


def last_line(report: Report) -> str:
    ledger = report.ledger
    jobs, counts = ledger.jobs, ledger.counts()
    completed = counts.pop("COMPLETED", 0)
    clear_errors = sum(counts[status] for status in ("FAILED", "CANCELLED", "TIMED_OUT"))
    worst_s = max((one.recovery_s for one in report.recoveries if one.recovery_s is not None), default=0.0)
    return (
        f"jobs={len(jobs)} completed={completed} clear_errors={clear_errors}"
        f" lost={len(ledger.lost) + ledger.missing_pictures} doubled={len(ledger.doubled) + ledger.drawn_for_no_one}"
        f" retried={sum(job.attempts > 1 for job in jobs)} restarts={report.restarts}"
        f" rss_growth={report.rss_growth:.1%} disk_growth={report.disk_growth_bytes}"
        f" worst_recovery_s={worst_s:.1f}"
    )


def is_bad(report: Report) -> bool:
    """Whether a job was lost, doubled, or failed although another attempt helps, or a fault was the end."""
    ledger = report.ledger
    never_recovered = any(one.recovery_s is None for one in report.recoveries)
    pictures = ledger.missing_pictures + ledger.drawn_for_no_one
    return bool(ledger.lost or ledger.doubled or ledger.failed or pictures or never_recovered)


if __name__ == "__main__":
    sys.exit(main())
