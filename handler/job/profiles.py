"""Reads the stored workflow and chooses the profile that it runs with."""

import json
import logging
from pathlib import Path
from typing import Any

from handler.errors import WorkflowInvalid
from handler.settings import Settings
from handler.weights import locate
from handler.workflow.workflow import NO_OVERRIDES, ModelFile, Workflow, build

STORED_PROFILE = "sdxl"  # the stored graph is written for it, so it has no file of overrides
FALLBACK_PROFILE = "tiny"

log = logging.getLogger(__name__)


def load(settings: Settings) -> Workflow:
    """Returns the workflow with the profile that is set; `auto` is SDXL if all its weights are found, else tiny.

    Raises:
        WorkflowInvalid: a file is missing or malformed.
    """
    if settings.profile != "auto":
        return _load(settings, settings.profile)
    workflow = _load(settings, STORED_PROFILE)
    missing = missing_models(workflow, settings)
    if not missing:
        return workflow
    log.warning("SDXL weights not found, using the tiny model", extra={"missing": [str(file) for file in missing]})
    return _load(settings, FALLBACK_PROFILE)


def missing_models(workflow: Workflow, settings: Settings) -> list[ModelFile]:
    """Returns the weight files that the workflow needs and that cannot be found."""
    return [file for file in workflow.models if locate.find(file, settings) is None]


def _load(settings: Settings, profile: str) -> Workflow:
    folder = settings.workflows_dir
    overrides = NO_OVERRIDES if profile == STORED_PROFILE else _read(folder / "profiles" / f"{profile}.json")
    graph = _read(folder / f"{settings.workflow}.json")
    params = _read(folder / f"{settings.workflow}.params.json")
    return build(settings.workflow, graph, params, profile, overrides)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as exc:
        raise WorkflowInvalid(f"{path.name} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise WorkflowInvalid(f"{path.name} is not JSON: {exc}") from exc
