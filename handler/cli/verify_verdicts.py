"""What `verify` concludes from what it measured. Pure, but for the table of prices."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.cli import verify_pictures
from handler.cli.checks import Finding, Severity
from handler.cli.verify_machine import Memory, Proof
from handler.cli.verify_pictures import Drawn
from handler.workflow.workflow import Workflow

PRICES = Path(__file__).with_name("prices.json")
SEE_ERRORS = "docs/errors.md explains the code; attach the report to an issue if that does not help"


def of_patch(proof: Proof | None) -> Finding:
    """Returns whether the node pack found the patch in force; None is what it did not measure."""
    if proof is None:
        fact = "not measured: it is merged into the checkpoint, or no module could be compared"
        return Finding(Severity.NOTE, "patch", fact, "judge by the pictures")
    shares = ", ".join(f"{share:.1%}" for share in proof.shares)
    deviation = max(abs(1 - share) for share in proof.shares)
    fact = f"applied to {proof.keys} weights; {len(proof.shares)} measured: {shares}, at most {deviation:.1%} off"
    return Finding(Severity.OK, "patch", fact)


def of_pictures(drawn: Sequence[Drawn]) -> list[Finding]:
    """Returns how many pictures are transparent, and a finding for each that is not."""
    failed = [picture for picture in drawn if picture.error]
    severity = Severity.WRONG if failed else Severity.OK
    fact = f"{len(drawn) - len(failed)} of {len(drawn)} are transparent"
    return [
        Finding(severity, "pictures", fact, SEE_ERRORS if failed else ""),
        *(Finding(Severity.WRONG, f"picture: {picture.name}", picture.error) for picture in failed),
    ]


def of_repetition(first: Drawn, second: Drawn) -> list[Finding]:
    """Returns whether two drawings of one request are the same; nothing unless there are two pictures."""
    if not (first.png and second.png):
        return []
    if first.sha256 == second.sha256:
        return [Finding(Severity.OK, "same seed twice", "the same bytes")]
    apart = abs(first.alpha["mean"] - second.alpha["mean"])
    return [Finding(Severity.NOTE, "same seed twice", f"not the same bytes; mean alpha differs by {apart:.5f}")]


def of_cache(workflow: Workflow, later: Sequence[Drawn]) -> Finding:
    """Returns whether the models stayed loaded in all but the first job."""
    if reloaded := verify_pictures.reloaded(workflow, later):
        return Finding(Severity.WRONG, "cache", f"{', '.join(reloaded)} ran again in later jobs", "see docs/gpu.md")
    return Finding(Severity.OK, "cache", "the models stay loaded from job to job")


def of_time(stages: Mapping[str, float], size: tuple[int, int]) -> list[Finding]:
    """Returns the time of a picture of this size in pixels; nothing if there is none."""
    if not stages:
        return []
    fact = f"{stages['total']:.2f} s for a picture of {size[0]}x{size[1]}, median"
    return [Finding(Severity.OK, "time", fact)]


def of_memory(memory: Memory | None) -> Finding:
    """Returns how much GPU memory was needed."""
    if memory is None:
        return Finding(Severity.NOTE, "GPU memory", "not measured: the NVIDIA driver reports no GPU")
    before = f"{memory.before_bytes / 1e9:.1f} GB of them before ComfyUI started"
    return Finding(Severity.OK, "GPU memory", f"peak {memory.peak_bytes / 1e9:.1f} GB, {before}")


def cost(gpu: str, picture_s: float, cold_start_s: float) -> dict[str, Any]:
    """Returns what a picture and a cold start cost in dollars, with the price and its source; empty if unknown.

    Args:
        gpu: its name as the driver spells it.
    """
    prices = json.loads(PRICES.read_text("utf-8"))
    for name, usd_per_second in prices.pop("usd_per_second").items():
        if re.search(rf"\b{name}\b", gpu):
            return {
                "gpu": gpu,
                **prices,
                "usd_per_second": usd_per_second,
                "usd_per_picture": round(usd_per_second * picture_s, 6),
                "usd_per_cold_start": round(usd_per_second * cold_start_s, 6),
            }
    return {}


def of_cost(gpu: str, found: Mapping[str, Any]) -> Finding:
    """Returns what a picture costs on this GPU."""
    if not found:
        return Finding(Severity.NOTE, "cost", f"no price is known for {gpu}")
    fact = f"${found['usd_per_picture']:.5f} a picture at ${found['usd_per_second']} a second"
    return Finding(Severity.OK, "cost", fact)
