"""What the GUI opens and saves: a stored workflow with the values of the profile at hand."""

import json
import re
from typing import Any

from handler.errors import WorkflowInvalid
from handler.job import profiles, stored_workflows
from handler.job.stored_workflows import GUESS, LAYOUT, PARAMS
from handler.settings import Settings
from handler.workflow import guess
from handler.workflow.build import build
from handler.workflow.graph import Graph
from handler.workflow.layout import Layout
from handler.workflow.translation import NO_PROFILE, Profile, shown_with, stored_from
from handler.workflow.workflow import Workflow

NAME = re.compile(r"[\w-]+", re.ASCII)


def opened(settings: Settings) -> dict[str, Any]:
    """Returns `{"name", "graph", "layout"}`; the layout is the graph in the GUI's format, None if it is unknown."""
    name = settings.workflow
    shown = shown_with(stored_workflows.graph(settings, name), _profile(settings))
    layout = stored_workflows.layout(settings, name)
    return {"name": name, "graph": shown, "layout": None if layout is None else layout.with_values(shown)}


def save(settings: Settings, graph: Graph, layout: Any) -> list[str]:
    """Stores an edited graph and its layout, unless jobs could not run; returns why they could not.

    Args:
        graph: in API format, with the profile's values.
        layout: the same in the GUI's format.
    """
    return _save(settings, settings.workflow, graph, layout, stored_workflows.params(settings, settings.workflow))


def save_as(settings: Settings, name: str, graph: Graph, layout: Any, confirmed: bool) -> dict[str, Any]:
    """Stores an edited graph as a new workflow, whose params are guessed from it and from those of the edited one.

    Args:
        name: of the new workflow.
        confirmed: whether to store it; if not, the answer only says what callers could set.

    Returns:
        `{"findings", "fields"}`: why jobs could not run, and what callers can set, one line each.
    """
    if not NAME.fullmatch(name):
        return {"findings": [f"{name!r} is not a name; use letters, digits, _ and -"], "fields": []}
    if name in stored_workflows.names(settings):
        return {"findings": [f"a workflow is named {name} already; choose another name"], "fields": []}
    try:
        rules = stored_workflows.read(settings.workflows_dir / GUESS)
        params = guess.params(graph, stored_workflows.params(settings, settings.workflow), rules)
    except WorkflowInvalid as exc:
        return {"findings": list(exc.details) or [exc.message], "fields": []}
    findings = _save(settings, name, graph, layout, params, is_new=True, is_rehearsal=not confirmed)
    fields = [
        f"{field}: {entry['input']} of {entry['node']}" for field, entry in params["request"].items() if "node" in entry
    ]
    return {"findings": findings, "fields": fields}


def _save(
    settings: Settings,
    name: str,
    graph: Graph,
    layout: Any,
    params: Any,
    *,
    is_new: bool = False,
    is_rehearsal: bool = False,
) -> list[str]:
    before = stored_workflows.graph(settings, settings.workflow)  # a new workflow is an edit of the one that was opened
    text = stored_workflows.formatted(settings, stored_from(graph, before, _profile(settings), params))
    stored = json.loads(text)
    try:
        edited = build(name, stored, params, profiles.STORED_PROFILE)
        for profile in stored_workflows.profile_names(settings, params):
            build(name, stored, params, profile, stored_workflows.profile(settings, profile))
    except WorkflowInvalid as exc:
        return list(exc.details) or [exc.message]
    if findings := stored_workflows.lint(settings, edited, stored, _is_merged(edited, settings))[0]:
        return list(map(str, findings))
    if not is_rehearsal:
        kept = Layout(layout, stored_workflows.node_classes(settings)).with_values(stored)
        folder = settings.workflows_dir
        if is_new:
            stored_workflows.write(folder / f"{name}{PARAMS}", json.dumps(params, indent=2, ensure_ascii=False) + "\n")
        stored_workflows.write(folder / f"{name}{LAYOUT}", json.dumps(kept, indent=1) + "\n")
        stored_workflows.write(folder / f"{name}.json", text)
    return []


def _is_merged(workflow: Workflow, settings: Settings) -> bool:
    """Returns whether the stored checkpoint has the patch in its weights; a missing one counts as unpatched."""
    return profiles.is_merged(workflow, settings) or False


def _profile(settings: Settings) -> Profile:
    name = profiles.read(settings).profile
    if name == profiles.STORED_PROFILE:
        return NO_PROFILE
    profile: Profile = stored_workflows.profile(settings, name)
    return profile
