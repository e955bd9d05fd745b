"""Checks .tools, for scripts/setup: exit status 1 and one line when a file of it is missing."""

import sys
from pathlib import Path

from installer import environment, report


def main() -> int:
    """Exit status: 0 when the environment that this interpreter runs in is whole."""
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
