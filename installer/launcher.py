"""The command `layerdiffuse-alpha` in the handler's environment."""

from pathlib import Path

from installer import environment, files

NAME = "layerdiffuse-alpha"
# A shell line finds the interpreter next to the script, so the repository can be moved.
SCRIPT = """\
#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
import sys

from handler.__main__ import main

sys.exit(main())
"""
# Relative to site-packages: environment, lib, python3.11, site-packages.
PATH_LINE = "../../../..\n"


def ensure(folder: Path) -> None:
    """Makes ``folder/bin/layerdiffuse-alpha`` run this repository's handler from any working directory."""
    _ensure_file(environment.site_packages(folder) / "layerdiffuse_alpha.pth", PATH_LINE, 0o644)
    _ensure_file(folder / "bin" / NAME, SCRIPT, 0o755)


def _ensure_file(path: Path, text: str, mode: int) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text or path.stat().st_mode & 0o777 != mode:
        files.write_atomically(path, text, mode)
