"""`layerdiffuse-alpha workflow`."""

import gzip
import json
import shutil

import pytest
from titled import inputs
from typer.testing import CliRunner

from handler.cli.workflow import app
from handler.settings import ROOT


@pytest.fixture
def workflows(tmp_path, monkeypatch):
    """A copy of workflows/ that the command uses."""
    folder = tmp_path / "workflows"
    shutil.copytree(ROOT / "workflows", folder)
    monkeypatch.setenv("WORKFLOWS_DIR", str(folder))
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.mark.usefixtures("workflows")
def test_the_stored_workflows_pass():
    """Lint finds nothing, and the files are in our form."""
    code, output = run("lint")
    assert (code, "txt2img_alpha: ok\n" in output) == (0, True)
    assert "warning" not in output
    assert run("format", "--check") == (0, "")


def test_lint_prints_one_finding_per_line(workflows):
    """A bypassed patch and steps out of range, for the profiles that they are about."""
    path = workflows / "txt2img_alpha.json"
    graph = json.loads(path.read_text("utf-8"))
    inputs(graph, "Sampler")["steps"] = 99
    inputs(graph, "Size")["batch_size"] = 2
    path.write_text(json.dumps(graph), "utf-8")
    code, output = run("lint")
    assert code == 1
    assert "txt2img_alpha: Sampler: 'steps' is 99, the default of num_inference_steps; it must be" in output


def test_format_writes_the_form_of_our_tools(workflows):
    """Whatever wrote the file."""
    path = workflows / "txt2img_alpha.json"
    before = path.read_text("utf-8")
    path.write_text(json.dumps(json.loads(before), sort_keys=True), "utf-8")
    assert run("format", "--check") == (1, "txt2img_alpha.json would change\n")
    assert run("format") == (0, "txt2img_alpha.json written\n")
    assert path.read_text("utf-8") == before


@pytest.mark.usefixtures("workflows")
def test_workflows_and_their_parameters_are_shown():
    """`list` has the names, `show` the fields of a request."""
    assert (
        run("list")[1] == "foreground_on_background\ntxt2img_alpha\ntxt2img_alpha_turbo\nprofiles: sdxl, merged, tiny\n"
    )
    code, output = run("show")
    assert code == 0
    assert "num_inference_steps" in output
    code, output = run("show", "other")
    assert code == 2


@pytest.mark.usefixtures("workflows")
def test_convert_writes_the_api_format(tmp_path):
    """A graph in the GUI's own format becomes one in the API format; anything else is refused."""
    edits = json.loads(gzip.decompress((ROOT / "tests/handler/workflow/gui_edits.json.gz").read_bytes()))
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(edits["steps"]["workflow"]), "utf-8")
    assert run("convert", str(saved), "-o", str(tmp_path / "converted.json")) == (0, "")
    assert json.loads((tmp_path / "converted.json").read_bytes()) == edits["steps"]["output"]
    code, output = run("convert", str(tmp_path / "converted.json"))
    assert (code, "is not in the GUI's own format" in output) == (2, True)
