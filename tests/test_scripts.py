"""The scripts are short shell scripts, and scripts/README.md lists each of them in one line."""

import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = sorted(path.name for path in SCRIPTS.iterdir() if path.suffix != ".md")


def test_the_readme_lists_each_script_once():
    """And no script that does not exist."""
    listed = re.findall(r"^\| `scripts/([\w-]+)", (SCRIPTS / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_short_and_says_what_it_does(name):
    """5 to 45 lines of bash that parse; the second line says what the script does."""
    path = SCRIPTS / name
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert re.match(r"# [A-Z]\w+", lines[1])
    assert 5 <= len(lines) <= 45
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)
