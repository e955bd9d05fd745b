"""An environment is what its lock files say; real uv, a local wheel, no network."""

import shutil
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
    return environment.Environment(tmp_path / "venv", (make_wheel("demo"),))


def ensure(uv: Path, demo: environment.Environment, anew: bool = False) -> list[str]:
    said: list[str] = []
    said.append(environment.ensure(uv, demo, said.append, anew))
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
def test_missing_files_of_a_record_are_damage(tmp_path: Path, record: str, damage: str | None) -> None:
    """Each listed file must exist with its size; bytecode and files without a size do not count."""
    fake_site(tmp_path, record)
    found = dict(environment.damages(tmp_path))
    assert found.keys() == (set() if damage is None else {"demo-1.0.dist-info"})
    assert damage is None or damage in found["demo-1.0.dist-info"]


def test_a_package_without_its_record_is_damaged(tmp_path: Path) -> None:
    """RECORD may be what an interrupted install did not write."""
    site = fake_site(tmp_path, "demo.py,,5\n")
    (site / "demo-1.0.dist-info/RECORD").unlink()
    assert dict(environment.damages(tmp_path)) == {"demo-1.0.dist-info": "demo-1.0.dist-info/RECORD cannot be read"}


def test_a_complete_environment_is_not_changed(uv: Path, demo: environment.Environment) -> None:
    """The second run installs nothing and says so."""
    assert ensure(uv, demo) == ["missing, installing", "installed (1 packages)"]
    (demo.folder / "own-file").touch()
    assert ensure(uv, demo) == ["ok (1 packages)"]
    assert (demo.folder / "own-file").exists()


def site(demo: environment.Environment) -> Path:
    return environment.site_packages(demo.folder)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda demo: (site(demo) / "demo.py").unlink(), "damaged: demo.py is missing"),
        (lambda demo: (site(demo) / "demo-1.0.dist-info/RECORD").unlink(), "damaged: demo-1.0.dist-info/RECORD"),
        (lambda demo: (site(demo) / "demo-1.0.dist-info/METADATA").unlink(), "damaged: demo-1.0.dist-info/METADATA"),
        (lambda demo: shutil.rmtree(site(demo) / "demo-1.0.dist-info"), "differs from its lock files"),
        (lambda demo: (demo.folder / environment.STAMP).unlink(), "differs from its lock files"),
        (lambda demo: (demo.folder / environment.STAMP).write_text(""), "differs from its lock files"),
        (lambda demo: demo.python.unlink(), "has no working bin/python"),
    ],
)
def test_a_damaged_environment_is_reported_and_repaired(
    uv: Path, demo: environment.Environment, harm: Callable[[environment.Environment], object], words: str
) -> None:
    """Lost files, an unfinished install and a lost interpreter are reported in one line and repaired."""
    ensure(uv, demo)
    harm(demo)
    assert ensure(uv, demo)[0].startswith(words)
    assert imported(demo, "demo") == "1.0"
    assert list(environment.damages(demo.folder)) == []


def test_an_interrupted_install_is_finished(uv: Path, demo: environment.Environment) -> None:
    """A file and the stamp are missing, and uv considers the package installed."""
    ensure(uv, demo)
    (demo.folder / environment.STAMP).unlink()
    (site(demo) / "demo.py").unlink()
    assert ensure(uv, demo)[0].startswith("damaged: demo.py")
    assert imported(demo, "demo") == "1.0"


def test_a_changed_lock_is_followed(uv: Path, demo: environment.Environment, make_wheel: MakeWheel) -> None:
    """The environment has what the new lock file lists, and nothing else."""
    ensure(uv, demo)
    assert ensure(uv, replace(demo, locks=(make_wheel("other"),)))[0] == "differs from its lock files, installing"
    assert environment.distributions(demo.folder) == ["other-1.0.dist-info"]


def test_a_complete_environment_can_be_installed_again(uv: Path, demo: environment.Environment) -> None:
    """As --repair does; nothing of the old one stays."""
    ensure(uv, demo)
    (site(demo) / "own_file.py").touch()
    assert ensure(uv, demo, anew=True) == ["repair requested, installing", "installed (1 packages)"]
    assert not (site(demo) / "own_file.py").exists()


def test_an_edit_in_uv_s_cache_is_repaired(uv: Path, demo: environment.Environment) -> None:
    """uv links files from its cache, so a file edited in place is damaged there too, and still comes out whole."""
    ensure(uv, demo)
    with (environment.site_packages(demo.folder) / "demo.py").open("a") as file:
        file.write("VERSION = 'edited'\n")
    assert ensure(uv, demo)[0].startswith("damaged: demo.py")
    assert imported(demo, "demo") == "1.0"


def test_several_locks_make_one_environment(uv: Path, demo: environment.Environment, make_wheel: MakeWheel) -> None:
    """A second lock file adds its packages; those of the first are not installed again."""
    ensure(uv, demo)
    (site(demo) / "own_file.py").touch()
    both = replace(demo, locks=(*demo.locks, make_wheel("devtool")))
    assert ensure(uv, both) == ["differs from its lock files, installing", "installed (2 packages)"]
    assert (imported(demo, "demo"), imported(demo, "devtool")) == ("1.0", "1.0")
    assert (site(demo) / "own_file.py").exists()
    assert ensure(uv, both) == ["ok (2 packages)"]


def test_a_wheel_with_another_hash_is_not_installed(uv: Path, demo: environment.Environment) -> None:
    """A package whose bytes the lock does not pin stops the setup, and the environment stays unfinished."""
    demo.locks[0].write_text(f"demo==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(SetupError, match=r"demo\.txt failed"):
        ensure(uv, demo)
    assert not (demo.folder / environment.STAMP).exists()
