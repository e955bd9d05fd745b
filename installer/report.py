"""The setup's output: one line per step, one line for a failure."""

import sys


def line(step: str, words: str) -> None:
    """Prints what a step found or did."""
    sys.stdout.write(f"{step:<24}{words}\n")
    sys.stdout.flush()


def failure(words: str) -> None:
    """Prints why the setup failed."""
    sys.stderr.write(f"setup: {words}\n")
