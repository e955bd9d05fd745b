"""What the GUI opens and saves: a stored workflow with the values of the profile at hand."""

import json
from typing import Any

from handler.errors import WorkflowInvalid
from handler.job import profiles, stored_workflows
from handler.job.stored_workflows import LAYOUT
from handler.settings import Settings
from handler.workflow.build import build
from handler.workflow.graph import Graph
from handler.workflow.layout import Layout
from handler.workflow.translation import Overrides, shown_with
from handler.workflow.workflow import Workflow


def opened(settings: Settings) -> dict[str, Any]:
    """Returns `{"name", "graph", "layout"}`; the layout is the graph in the GUI's format, None if it is unknown."""
    name = settings.workflow
    shown = shown_with(stored_workflows.graph(settings, name), _overrides(settings))
    layout = stored_workflows.layout(settings, name)
    return {"name": name, "graph": shown, "layout": None if layout is None else layout.with_values(shown)}


def save(settings: Settings, graph: Graph, layout: Any) -> list[str]:
    """Stores an edited graph and its layout, unless jobs could not run; returns why they could not.

    Args:
        graph: in API format, with the profile's values.
        layout: the same in the GUI's format.
    """
    name = settings.workflow
    text = stored_workflows.stored_form(settings, name, graph, _overrides(settings))
    try:
        params = stored_workflows.params(settings, name)
        edited = build(name, json.loads(text), params, profiles.STORED_PROFILE)
        for profile in stored_workflows.profile_names(settings):
            build(name, json.loads(text), params, profile, stored_workflows.profile(settings, profile))
    except WorkflowInvalid as exc:
        return list(exc.details) or [exc.message]
    if findings := stored_workflows.lint(settings, edited, json.loads(text), _is_merged(edited, settings))[0]:
        return list(map(str, findings))
    stored_workflows.write(settings.workflows_dir / f"{name}.json", text)
    kept = Layout(layout, stored_workflows.node_classes(settings)).with_values(json.loads(text))
    stored_workflows.write(settings.workflows_dir / f"{name}{LAYOUT}", json.dumps(kept, indent=1) + "\n")
    return []


def _is_merged(workflow: Workflow, settings: Settings) -> bool:
    """Returns whether the stored checkpoint has the patch in its weights; a missing one counts as unpatched."""
    return profiles.is_merged(workflow, settings) or False


def _overrides(settings: Settings) -> Overrides:
    profile = profiles.read(settings).profile
    if profile == profiles.STORED_PROFILE:
        return {}
    overrides: Overrides = stored_workflows.profile(settings, profile).get("graph", {})
    return overrides
