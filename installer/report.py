"""What the person who runs the setup reads: one line a step, one line for a failure."""

import sys


def line(step: str, words: str) -> None:
    """Tell what a step found or did."""
    sys.stdout.write(f"{step:<24}{words}\n")
    sys.stdout.flush()


def failure(words: str) -> None:
    """Tell why the setup ended."""
    sys.stderr.write(f"setup: {words}\n")
