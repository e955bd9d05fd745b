"""An environment that differs from its lock is made again; with the real uv, a local wheel and no network."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from installer import environment
from installer.errors import SetupError

pytestmark = pytest.mark.usefixtures("offline")
MakeWheel = Callable[..., Path]


@pytest.fixture
def uv(root: Path) -> Path:
    return root / ".tools/bin/uv"


@pytest.fixture
def demo(make_wheel: MakeWheel, tmp_path: Path) -> environment.Environment:
    return environment.Environment(tmp_path / "venv", make_wheel("demo"), make_wheel("devtool"))


def ensure(uv: Path, demo: environment.Environment, dev: bool = False) -> list[str]:
    said: list[str] = []
    said.append(environment.ensure(uv, demo, dev, said.append))
    return said


def imported(demo: environment.Environment, module: str) -> str:
    code = f"import {module}; print({module}.VERSION)"
    command = [demo.python, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def fake_site(folder: Path, record: str) -> Path:
    site = folder / "lib/python3.11/site-packages"
    (site / "demo-1.0.dist-info").mkdir(parents=True)
    (site / "demo-1.0.dist-info/RECORD").write_text(record)
    (site / "demo.py").write_text("12345")
    return site


@pytest.mark.parametrize(
    ("record", "damage"),
    [
        ("demo.py,sha256=x,5\n", None),
        ("demo.py,,\n", None),
        ("__pycache__/demo.pyc,,7\n", None),
        ("demo.py,sha256=x,4\n", "demo.py is missing or has another size"),
        ("gone.py,sha256=x,5\n", "gone.py is missing or has another size"),
        ("../../../bin/demo,sha256=x,5\n", "bin/demo is missing or has another size"),
        ('"a,b.py",sha256=x,5\n', "a,b.py is missing or has another size"),
        ("demo.py,sha256=x,many\n", "RECORD cannot be read"),
        ("demo.py\n", "RECORD cannot be read"),
    ],
)
def test_damage_is_what_record_lists_and_the_disk_lacks(tmp_path: Path, record: str, damage: str | None) -> None:
    """Each listed file must exist with its size; bytecode and files without a size do not count."""
    fake_site(tmp_path, record)
    found = environment.find_damage(tmp_path, ["demo-1.0.dist-info"])
    assert found is None if damage is None else damage in str(found)


def test_a_package_without_its_record_is_damaged(tmp_path: Path) -> None:
    """A package that is missing completely is detected too."""
    fake_site(tmp_path, "demo.py,,5\n")
    assert "other-1.0.dist-info/RECORD cannot be read" in str(
        environment.find_damage(tmp_path, ["other-1.0.dist-info"])
    )


def test_a_finished_environment_is_left_alone(uv: Path, demo: environment.Environment) -> None:
    """The second run installs nothing and says so."""
    assert ensure(uv, demo) == ["missing, installing", "installed (1 packages)"]
    (demo.folder / "own-file").touch()
    assert ensure(uv, demo) == ["ok (1 packages)"]
    assert (demo.folder / "own-file").exists()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda demo: (environment.site_packages(demo.folder) / "demo.py").unlink(), "damaged: demo.py is missing"),
        (lambda demo: (demo.folder / environment.STAMP).unlink(), "not completely installed"),
        (lambda demo: (demo.folder / environment.STAMP).write_text(""), "not completely installed"),
        (lambda demo: demo.python.unlink(), "has no working bin/python"),
    ],
)
def test_a_harmed_environment_is_named_and_rebuilt(
    uv: Path, demo: environment.Environment, harm: Callable[[environment.Environment], object], words: str
) -> None:
    """A lost file, an incomplete install and a lost interpreter are reported in one line and repaired."""
    ensure(uv, demo)
    harm(demo)
    assert ensure(uv, demo)[0].startswith(words)
    assert imported(demo, "demo") == "1.0"


def test_a_changed_lock_is_followed_from_scratch(
    uv: Path, demo: environment.Environment, make_wheel: MakeWheel
) -> None:
    """Another lock means a new environment, without the old packages."""
    ensure(uv, demo)
    assert ensure(uv, replace(demo, lock=make_wheel("other")))[0] == "made from another other.txt, installing"
    assert environment.distributions(demo.folder) == ["other-1.0.dist-info"]


def test_an_edit_that_reached_uv_s_cache_is_repaired(uv: Path, demo: environment.Environment) -> None:
    """uv links files from its cache, so editing a file damages the cache too; both are repaired."""
    ensure(uv, demo)
    with (environment.site_packages(demo.folder) / "demo.py").open("a") as file:
        file.write("VERSION = 'edited'\n")
    assert ensure(uv, demo)[0].startswith("damaged: demo.py")
    assert imported(demo, "demo") == "1.0"


def test_development_tools_come_in_addition(uv: Path, demo: environment.Environment) -> None:
    """With dev both locks are installed, and the packages of the first are not installed again."""
    ensure(uv, demo)
    (demo.folder / "own-file").touch()
    assert ensure(uv, demo, dev=True) == ["development tools: not completely installed, installing", "ok (2 packages)"]
    assert (demo.folder / "own-file").exists()
    assert ensure(uv, demo, dev=True) == ["ok (2 packages)"]


def test_without_dev_the_development_tools_stay(uv: Path, demo: environment.Environment) -> None:
    """A later run without --dev does not remove them."""
    ensure(uv, demo, dev=True)
    assert ensure(uv, demo) == ["ok (2 packages)"]
    assert imported(demo, "devtool") == "1.0"


def test_a_damaged_development_tool_is_repaired(uv: Path, demo: environment.Environment) -> None:
    """A lost file of a development tool is detected and restored."""
    ensure(uv, demo, dev=True)
    (environment.site_packages(demo.folder) / "devtool.py").unlink()
    assert ensure(uv, demo, dev=True)[0].startswith("development tools: damaged: devtool.py")
    assert imported(demo, "devtool") == "1.0"


def test_a_wheel_with_another_hash_is_not_installed(uv: Path, demo: environment.Environment) -> None:
    """A package whose hash is not in the lock stops the setup, and the environment stays incomplete."""
    demo.lock.write_text(f"demo==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(SetupError, match=r"demo\.txt failed"):
        ensure(uv, demo)
    assert environment.find_fault(demo, demo.lock, environment.STAMP) == "not completely installed"
