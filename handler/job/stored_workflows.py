"""The files of the stored workflows: their names, what is in them, how they are written."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from handler.errors import WorkflowInvalid
from handler.settings import Settings
from handler.weights import locate, manifest
from handler.workflow import canonical
from handler.workflow.build import PROFILES
from handler.workflow.graph import Finding, Graph
from handler.workflow.layout import Layout
from handler.workflow.node_classes import NodeClasses
from handler.workflow.translation import foreign_files
from handler.workflow.workflow import Workflow

PARAMS = ".params.json"
LAYOUT = ".layout.json"
GUESS = "guess.json"
NO_PARAMS: Mapping[str, Any] = MappingProxyType({})
OBJECT_INFO = "object_info.json.gz"


def names(settings: Settings) -> list[str]:
    """Returns the names of the stored workflows."""
    found = (path.name.removesuffix(PARAMS) for path in settings.workflows_dir.glob(f"*{PARAMS}"))
    return sorted(name for name in found if (settings.workflows_dir / f"{name}.json").is_file())


def profile_names(settings: Settings, params: Mapping[str, Any] = NO_PARAMS) -> list[str]:
    """Returns the names of the profiles that have a file; with the decoded params, those that the workflow can have."""
    names = sorted(path.stem for path in (settings.workflows_dir / "profiles").glob("*.json"))
    return [name for name in names if name in params.get(PROFILES, names)]


def graph(settings: Settings, name: str) -> Any:
    """Returns the decoded graph; raises WorkflowInvalid if it cannot be read."""
    return read(settings.workflows_dir / f"{name}.json")


def params(settings: Settings, name: str) -> Any:
    """Returns the decoded params file; raises WorkflowInvalid if it cannot be read."""
    return read(settings.workflows_dir / f"{name}{PARAMS}")


def profile(settings: Settings, name: str) -> Any:
    """Returns the decoded profile; raises WorkflowInvalid if it cannot be read."""
    return read(settings.workflows_dir / "profiles" / f"{name}.json")


def read(path: Path) -> Any:
    """Returns the decoded JSON of a file; raises WorkflowInvalid if there is none."""
    try:
        return json.loads(path.read_bytes())
    except OSError as exc:
        raise WorkflowInvalid(f"{path.name} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise WorkflowInvalid(f"{path.name} is not JSON: {exc}") from exc


def layout(settings: Settings, name: str) -> Layout | None:
    """Returns where the nodes are in the GUI; None if no file says it, or one that is of another graph.

    Raises:
        WorkflowInvalid: a file cannot be read.
    """
    path = settings.workflows_dir / f"{name}{LAYOUT}"
    if not path.is_file():
        return None
    found = Layout(read(path), node_classes(settings))
    return found if found.fits(graph(settings, name)) else None


def node_classes(settings: Settings) -> NodeClasses:
    """Returns the recorded classes of the pinned ComfyUI and our nodes.

    Raises:
        WorkflowInvalid: the recording is missing or damaged.
    """
    try:
        return NodeClasses(json.loads(gzip.decompress((settings.workflows_dir / OBJECT_INFO).read_bytes())))
    except (OSError, EOFError, ValueError) as exc:
        raise WorkflowInvalid(f"{OBJECT_INFO} cannot be read, run tools/record_object_info.py") from exc


def lint(settings: Settings, workflow: Workflow, stored: Graph, merged: bool) -> tuple[list[Finding], list[Finding]]:
    """Returns why jobs of a workflow would fail, and what may surprise, without ComfyUI.

    Args:
        stored: its graph as it is in the file.
        merged: whether the checkpoint has the patch in its weights.
    """
    classes = node_classes(settings)
    profiles = {name: profile(settings, name) for name in profile_names(settings)}
    found = [*workflow.findings(merged), *classes.findings(workflow.render({}), _weight_files(settings))]
    return [*found, *foreign_files(stored, profiles)], [*workflow.warnings(), *classes.left_out(stored)]


def formatted(settings: Settings, changed: Graph) -> str:
    """Returns a graph as it is stored, with every widget."""
    return canonical.text(node_classes(settings).completed(changed))


def write(path: Path, text: str) -> None:
    """Replaces a file, or leaves it as it is."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    part.replace(path)


def _weight_files(settings: Settings) -> set[str]:
    """Returns the names of the weight files that are here or listed in models.txt."""
    folders = [settings.models_dir, *locate.volumes(settings)]
    here = {path.name for folder in folders for path in folder.glob("*/*")}
    try:
        return here | {entry.path.name for entry in manifest.read(settings.models_file)}
    except manifest.BadList:
        return here
