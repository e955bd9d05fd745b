"""Checks .tools, for scripts/setup: exits with 1 and one line if a file is missing."""

import sys
from pathlib import Path

from installer import environment, report


def main() -> int:
    """Returns the exit status: 0 if the environment of this interpreter is complete."""
    folder = Path(sys.prefix)
    names = environment.distributions(folder)
    found = {name.split("-")[0] for name in names}
    lacking = sorted({"pip", "setuptools", "uv"} - found)
    fault = f"{lacking[0]} is missing" if lacking else environment.find_damage(folder, names)
    if fault is not None:
        report.line("tools", fault)
    return 0 if fault is None else 1


if __name__ == "__main__":
    sys.exit(main())
