"""Reads the stored workflow, chooses the profile that it runs with, and refuses one that cannot be transparent."""

import logging
from dataclasses import replace

from handler.errors import WorkflowInvalid
from handler.job import stored_workflows
from handler.settings import Settings
from handler.weights import header, locate
from handler.workflow.build import NO_OVERRIDES, build
from handler.workflow.graph import Finding
from handler.workflow.workflow import Workflow

STORED_PROFILE = "sdxl"  # the stored graph is written for it, so it has no file of overrides
FALLBACK_PROFILE = "tiny"

log = logging.getLogger(__name__)


def load(settings: Settings) -> Workflow:
    """Returns the workflow that `read` returns, with those that jobs may choose instead.

    The alternatives are the other stored workflows with the same profile, if they can draw and their weights are found.

    Raises:
        WorkflowInvalid: a file is missing or malformed, or with every finding.
    """
    workflow = _checked(read(settings), settings)
    names = [name for name in stored_workflows.names(settings) if name != workflow.name]
    return workflow.with_alternatives([found for name in names if (found := _alternative(name, workflow, settings))])


def reload(settings: Settings, current: Workflow) -> Workflow:
    """Returns the workflow as its files are now, with the current one's profile; raises like `load`.

    If weights vanish, jobs wait for them. PROFILE=auto must not turn to the tiny model instead.
    """
    return load(settings.model_copy(update={"profile": current.profile}))


def _alternative(name: str, default: Workflow, settings: Settings) -> Workflow | None:
    try:
        chosen = settings.model_copy(update={"workflow": name})
        workflow = _checked(_load(chosen, default.profile), chosen)
    except WorkflowInvalid as exc:
        log.warning("workflow not offered", extra={"workflow": name, "reason": exc.message})
        return None
    # Without the files of the default workflow, no job runs; they may come later.
    own = [file for file in workflow.models if file not in default.models]
    if missing := locate.missing(own, settings):
        log.info("workflow not offered", extra={"workflow": name, "missing": [str(file) for file in missing]})
        return None
    return workflow


def _checked(workflow: Workflow, settings: Settings) -> Workflow:
    """Returns the workflow; raises WorkflowInvalid if its pictures cannot be transparent."""
    if found := [str(finding) for finding in findings(workflow, settings)]:
        raise WorkflowInvalid(f"workflow {workflow.name}: {'; '.join(found)}", found)
    for warning in workflow.warnings():
        log.warning("workflow has a finding", extra={"workflow": workflow.name, "finding": str(warning)})
    return workflow


def read(settings: Settings) -> Workflow:
    """Returns the workflow with the profile that is set.

    `auto` is SDXL if all its weights are found, or if those of the tiny model are missing, too; else it is tiny.

    Raises:
        WorkflowInvalid: a file is missing or malformed.
    """
    if settings.profile != "auto":
        return _load(settings, settings.profile)
    workflow = _load(settings, STORED_PROFILE)
    missing = locate.missing(workflow.models, settings)
    if not missing:
        return workflow
    fallback = _load(settings, FALLBACK_PROFILE)
    if locate.missing(fallback.models, settings):  # an image without any weights: SDXL's are the ones to provide
        return workflow
    log.warning("SDXL weights not found, using the tiny model", extra={"missing": [str(file) for file in missing]})
    return fallback


def findings(workflow: Workflow, settings: Settings) -> list[Finding]:
    """Returns why pictures of the workflow cannot be transparent; an empty list if they can."""
    return workflow.findings(is_merged(workflow, settings))


def is_merged(workflow: Workflow, settings: Settings) -> bool | None:
    """Returns whether a weight file already contains the patch; None if one is missing or damaged."""
    merged = False
    for file in workflow.models:
        found = locate.find(file, settings)
        if found is None:
            return None
        try:
            merged |= header.is_merged(header.read(found.path))
        except header.BadHeader:
            return None
    return merged


def _load(settings: Settings, profile: str) -> Workflow:
    name = settings.workflow
    overrides = NO_OVERRIDES if profile == STORED_PROFILE else stored_workflows.profile(settings, profile)
    graph, params = stored_workflows.graph(settings, name), stored_workflows.params(settings, name)
    workflow = build(name, graph, params, profile, overrides)
    return replace(workflow, layout=stored_workflows.layout(settings, name)) if settings.embed_workflow else workflow
