"""`layerdiffuse-alpha workflow lint | format | convert | list | show`: the stored workflows."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from handler.cli.terminal import EXIT_FAILED, EXIT_USAGE, Commands, fail, settings
from handler.errors import WorkflowInvalid
from handler.job import profiles, stored_workflows, workflow_editing
from handler.settings import Settings
from handler.workflow import canonical, gui_format

app = typer.Typer(cls=Commands, no_args_is_help=True, help="Checks and shows the stored workflows.")

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Stored workflows.", show_default="all")]
console = Console(highlight=False, soft_wrap=True)


@app.command()
def lint(chosen: Names = None) -> None:
    """Checks workflows without ComfyUI, against a recording of its node classes; prints one finding per line.

    Exit status: 0 jobs can run, 1 they cannot, 2 the workflow does not exist.
    """
    found = settings()
    failed = False
    for name in _names(found, chosen):
        errors, warnings = _findings(found, name)
        failed |= bool(errors)
        for error in errors:
            console.print(f"{name}: {error}", markup=False)
        for warning in warnings:
            console.print(f"{name}: warning: {warning}", markup=False)
        if not errors:
            console.print(f"{name}: ok", markup=False)
    raise typer.Exit(EXIT_FAILED if failed else 0)


@app.command("format")
def format_files(
    chosen: Names = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 if a file would change.")] = False,
) -> None:
    """Writes graphs in the form of our tools, with a value for every widget."""
    found = settings()
    changes = False
    for name in _names(found, chosen):
        path = found.workflows_dir / f"{name}.json"
        text = stored_workflows.formatted(found, stored_workflows.graph(found, name))
        if text != path.read_text("utf-8"):
            changes = True
            console.print(f"{path.name} {'would change' if check else 'written'}", markup=False)
            if not check:
                stored_workflows.write(path, text)
    raise typer.Exit(EXIT_FAILED if changes and check else 0)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Saved by ComfyUI's GUI.", dir_okay=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default the graph is printed.")
    ] = None,
) -> None:
    """Converts a graph from the GUI's own format to the API format, as the GUI's Export (API) does.

    Exit status: 0 converted, 1 it has nodes that only the GUI can convert, 2 it is not a graph of the GUI.
    """
    found = settings()
    try:
        decoded = stored_workflows.read(file)
        if not gui_format.is_gui_format(decoded):
            fail(f"{file.name} is not in the GUI's own format", EXIT_USAGE)
        text = canonical.text(gui_format.to_graph(decoded, stored_workflows.node_classes(found)))
    except WorkflowInvalid as exc:
        fail("\n".join(exc.details or [exc.message]))
    if output is None:
        typer.echo(text, nl=False)
    else:
        stored_workflows.write(output, text)


@app.command("list")
def list_workflows() -> None:
    """Lists the stored workflows and their profiles."""
    found = settings()
    for name in stored_workflows.names(found):
        console.print(name, markup=False)
    profile_names = [profiles.STORED_PROFILE, *stored_workflows.profile_names(found)]
    console.print(f"profiles: {', '.join(profile_names)}", markup=False)


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A stored workflow.")] = "txt2img_alpha") -> None:
    """Shows what callers may set in a workflow, and which weight files it needs."""
    found = settings()
    _names(found, [name])
    profile = profiles.STORED_PROFILE if found.profile == "auto" else found.profile
    workflow = profiles.read(found.model_copy(update={"workflow": name, "profile": profile}))
    defaults = workflow.input_schema()["properties"]
    table = Table(box=None, pad_edge=False)
    for heading in ("field", "node", "input", "default"):
        table.add_column(heading, no_wrap=True)
    table.add_column("accepts")
    for parameter in workflow.parameters:
        default = "random" if parameter.random else defaults[parameter.name].get("default", "")
        default = "required" if parameter.required else str(default)
        table.add_row(parameter.name, parameter.node or "", parameter.input or "", default, parameter.expectation())
    console.print(table)
    console.print(f"profile {workflow.profile}; weights: {', '.join(map(str, workflow.models))}", markup=False)


@app.command("open", hidden=True)
def open_for_gui() -> None:
    """Prints the workflow that is set as JSON, for scripts/gui."""
    typer.echo(json.dumps(workflow_editing.opened(settings())))


@app.command("save", hidden=True)
def save_from_gui() -> None:
    """Stores the workflow on standard input, unless jobs could not run; prints the findings, for scripts/gui.

    Standard input is `{"name", "graph", "layout"}`; with `new_name`, a new workflow is stored if `confirmed` is true.
    """
    found = settings()
    try:
        edited = json.load(sys.stdin)
        graph, layout, new_name = edited["graph"], edited["layout"], edited.get("new_name")
        found = found.model_copy(update={"workflow": edited["name"]})
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        fail(f"expected name, graph and layout as JSON: {exc}", EXIT_USAGE)
    _names(found, [found.workflow])
    if new_name is None:
        answer = {"findings": workflow_editing.save(found, graph, layout)}
    else:
        answer = workflow_editing.save_as(found, new_name, graph, layout, edited.get("confirmed") is True)
    typer.echo(json.dumps(answer))


def _names(found: Settings, chosen: list[str] | None) -> list[str]:
    known = stored_workflows.names(found)
    for name in chosen or []:
        if name not in known:
            fail(f"no workflow is named {name}; there are {', '.join(known)}", EXIT_USAGE)
    return chosen or known


def _findings(found: Settings, name: str) -> tuple[list[str], list[str]]:
    """Returns the errors and warnings about a workflow, with every profile that it must run with."""
    errors: list[str] = []
    for profile in stored_workflows.profile_names(found, stored_workflows.params(found, name)):
        try:
            profiles.read(found.model_copy(update={"workflow": name, "profile": profile}))
        except WorkflowInvalid as exc:
            errors += [f"profile {profile}: {fault}" for fault in exc.details or [exc.message]]
    try:
        stored = profiles.read(found.model_copy(update={"workflow": name, "profile": profiles.STORED_PROFILE}))
    except WorkflowInvalid as exc:
        return list(exc.details) or [exc.message], []
    faults, warnings = stored_workflows.lint(
        found, stored, stored_workflows.graph(found, name), profiles.is_merged(stored, found) or False
    )
    return list(dict.fromkeys([*map(str, faults), *errors])), list(map(str, warnings))
