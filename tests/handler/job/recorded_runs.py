"""Runs of the real ComfyUI, message by message."""

import json
from pathlib import Path

from handler.comfyui.run import Run, parse_text

TRANSCRIPTS = Path(__file__).parents[1] / "comfyui" / "transcripts"


def recorded_run(name):
    """Yields a run after each of its messages that is text."""
    recorded = json.loads((TRANSCRIPTS / f"{name}.json").read_text("utf-8"))
    run = Run(recorded["prompt_id"], recorded["output_node"])
    for frame in recorded["frames"]:
        if "text" in frame:
            run.receive(parse_text(frame["text"]), frame["at_s"])
            yield run
