"""scripts/gui in a browser: the stored workflow is open, and saving it writes the files that the worker reads."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import requests
from gui_edits import EDITS, HELPERS, REFUSED
from server import ROOT, free_port

from handler.comfyui.client import ComfyClient
from handler.deadline import Deadline
from handler.job import profiles, stored_workflows
from handler.settings import Settings
from handler.workflow import gui_format

NAME = "txt2img_alpha"
ROUTE = "/layerdiffuse_alpha/workflow"
STARTED = "document.body.dataset.workflow"
TOASTS = "[...document.querySelectorAll('.p-toast-message')].map((toast) => toast.innerText)"
# Loads a graph in the GUI's format, edits it, and returns it in both formats.
EDIT = """
async (graph) => {
  await app.loadGraphData(graph);
  %s
  %s
  return await app.graphToPrompt();
}
"""
SAVE = """
async ({ output, workflow }) => {
  const body = JSON.stringify({ name: NAME, graph: output, layout: workflow });
  return (await (await app.api.fetchApi(ROUTE, { method: "POST", body })).json()).findings;
}
""".replace("ROUTE", json.dumps(ROUTE)).replace("NAME", json.dumps(NAME))
OPEN = """
async () => {
  await app.loadGraphData((await (await app.api.fetchApi(ROUTE)).json()).layout);
  return (await app.graphToPrompt()).workflow;
}
""".replace("ROUTE", json.dumps(ROUTE))
DROP = """
([base64, format]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], `alpha.${format}`, { type: `image/${format}` }));
  document.querySelector("#graph-canvas").dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer }));
}
"""
# Of different kinds: with and without subgraphs, reroutes, notes and primitives.
TEMPLATES = (
    *("default", "sdxl_simple_example", "sdxl_refiner_prompt_example", "sdxlturbo_example", "flux_schnell"),
    *("flux_dev_full_text_to_image", "sd3.5_simple_example", "image_qwen_image", "image_flux2_text_to_image"),
    *(
        "basic_mask_operations_and_compositing",
        "flux1_dev_uso_reference_image_gen",
        "utility_birefnet_remove_background",
    ),
)
# The smallest and the largest alpha of an image element.
EXTREME_ALPHA = """
(() => {
  const canvas = new OffscreenCanvas(128, 128).getContext("2d");
  canvas.drawImage(IMAGE, 0, 0);
  const alphas = canvas.getImageData(0, 0, 128, 128).data.filter((_, index) => index % 4 === 3);
  return [Math.min(...alphas), Math.max(...alphas)];
})()
"""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of workflows that the GUI opens and saves."""
    return shutil.copytree(ROOT / "workflows", tmp_path_factory.mktemp("gui") / "workflows")


@pytest.fixture
def workflows(folder):
    """The same folder, with the files of the repository."""
    shutil.copytree(ROOT / "workflows", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def gui(folder):
    """The URL of a ComfyUI that scripts/gui has started."""
    port = free_port()
    environment = os.environ | {"WORKFLOWS_DIR": str(folder), "PROFILE": "tiny"}
    process = subprocess.Popen([ROOT / "scripts" / "gui", "--port", str(port)], env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end_s = time.monotonic() + 120
        while True:
            assert time.monotonic() < end_s
            try:
                requests.get(f"{url}/system_stats", timeout=5)
                break
            except requests.RequestException:
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def page(browser, gui, workflows):
    page = browser.new_page(viewport={"width": 1400, "height": 800})
    page.goto(gui)
    page.wait_for_function(STARTED, timeout=60_000)
    yield page
    page.close()


def said(page, text):
    page.wait_for_function(f"{TOASTS}.some((text) => text.includes({json.dumps(text)}))", timeout=20_000)


def test_the_stored_workflow_is_opened_edited_and_saved(page, workflows):
    """Ctrl+S stores an edit in one line; Run shows the picture; a graph without the patch is refused."""
    path = workflows / f"{NAME}.json"
    before = path.read_text("utf-8").splitlines()
    widgets = "app.graph.nodes.find((node) => node.title === '{}').widgets"
    assert page.evaluate(widgets.format("Checkpoint") + "[0].value") == "tiny_sdxl.safetensors"
    page.evaluate(widgets.format("Sampler") + ".find((widget) => widget.name === 'steps').value = 13")
    page.keyboard.press("Control+s")
    said(page, "Saved txt2img_alpha")
    after = path.read_text("utf-8").splitlines()
    assert [new for old, new in zip(before, after, strict=True) if old != new] == ['      "steps": 13,']
    layout = json.loads((workflows / f"{NAME}.layout.json").read_text("utf-8"))
    assert len(layout["nodes"]) == len(json.loads("\n".join(after)))

    page.get_by_test_id("queue-button").click()
    shown = "app.graph.nodes.find((node) => node.title === 'Alpha PNG').imgs?.[0]"
    page.wait_for_function(f"{shown}?.naturalWidth === 128", timeout=60_000)
    least, greatest = page.evaluate(EXTREME_ALPHA.replace("IMAGE", shown))
    assert least < 5
    assert greatest > 250

    page.reload()
    page.wait_for_function(STARTED, timeout=60_000)
    page.evaluate("app.graph.remove(app.graph.nodes.find((node) => node.title === 'Transparency Patch'))")
    page.keyboard.press("Control+s")
    said(page, "Transparency Patch: bypassed, muted, renamed or deleted")
    assert path.read_text("utf-8").splitlines() == after


def kept(workflow):
    """What must survive saving: nodes with titles, colours, positions and values, links, groups, subgraphs."""
    for node in workflow["nodes"]:
        node["widgets_values"] = node.get("widgets_values") or []  # the GUI leaves them out of a new node
    return {key: workflow.get(key) for key in ("nodes", "links", "groups", "definitions")}


def test_edits_are_converted_as_the_gui_exports_them_and_survive_saving(page, workflows):
    """Each edit: `workflow convert` equals Export (API); it is refused by name, or the same when it is opened again."""
    classes = stored_workflows.node_classes(Settings())
    opened = page.evaluate("app.graph.serialize()")
    for name, edit in EDITS.items():
        exported = page.evaluate(EDIT % (HELPERS, edit), opened)
        assert gui_format.to_graph(exported["workflow"], classes) == exported["output"], name
        findings = page.evaluate(SAVE, exported)
        expected = REFUSED.get(name, [])
        assert [finding[: len(start)] for finding, start in zip(findings, expected, strict=True)] == expected, name
        if not findings:
            before, after = kept(exported["workflow"]), kept(page.evaluate(OPEN))
            assert after == before, name
            shutil.copytree(ROOT / "workflows", workflows, dirs_exist_ok=True)


def test_templates_are_converted_as_the_gui_exports_them(page):
    """ComfyUI's own templates, or as many as its package has."""
    (folder,) = (ROOT / ".comfyui/venv").glob("lib/*/site-packages/comfyui_workflow_templates_json/templates")
    classes = gui_format.NodeClasses(page.evaluate("async () => await (await app.api.fetchApi('/object_info')).json()"))
    for name in TEMPLATES:
        template = json.loads((folder / f"{name}.json").read_text("utf-8"))
        exported = page.evaluate(EDIT % ("", ""), template)
        assert gui_format.to_graph(exported["workflow"], classes) == exported["output"], name


@pytest.mark.parametrize("format_", ["png", "webp"])
def test_a_job_s_picture_opens_the_graph_that_drew_it(page, gui, format_):
    """Dropped into the GUI: the layout of the stored workflow, with the job's values."""
    workflow = profiles.read(Settings(profile="tiny", embed_workflow=True))
    values = {"prompt": "a blue ball", "seed": 5, "num_inference_steps": 3, "output_format": format_}
    graph, chunks = workflow.with_metadata(workflow.render(values))
    client = ComfyClient(gui.removeprefix("http://"))
    encoded, _ = client.run(graph, workflow.output_node, Deadline(60), None, chunks).result()
    client.close()
    page.evaluate("app.graph.clear()")
    page.evaluate(DROP, [base64.b64encode(encoded).decode(), format_])
    page.wait_for_function("app.graph.nodes.length > 0", timeout=20_000)
    dropped = page.evaluate("app.graphToPrompt()")
    assert dropped["output"] == workflow.render(values)
    places = {node["id"]: node["pos"] for node in dropped["workflow"]["nodes"]}
    assert places == {node["id"]: node["pos"] for node in workflow.layout.saved["nodes"]}


def test_a_new_workflow_is_saved_after_its_fields_are_confirmed(page, workflows):
    """File > Save to worker as: the params file is guessed; Ctrl+S then saves the new workflow, not the old one."""
    before = (workflows / f"{NAME}.json").read_text("utf-8")
    page.evaluate("void app.extensionManager.command.execute('layerdiffuse-alpha.save-as')")
    page.get_by_role("dialog").get_by_role("textbox").fill("sketch")
    page.keyboard.press("Enter")
    page.get_by_text("num_inference_steps: steps of Sampler").wait_for(timeout=20_000)
    assert not (workflows / "sketch.json").exists()
    page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
    said(page, "Saved sketch")
    assert json.loads((workflows / "sketch.json").read_bytes()) == json.loads(before)
    page.evaluate("app.graph.nodes.find((node) => node.title === 'Sampler').widgets[2].value = 6")
    page.keyboard.press("Control+s")
    said(page, "A running server uses it for the next job.")
    assert json.loads((workflows / "sketch.json").read_bytes())["6"]["inputs"]["steps"] == 6
    assert (workflows / f"{NAME}.json").read_text("utf-8") == before
    chosen = profiles.load(Settings(profile="tiny", workflows_dir=workflows)).named("sketch")
    assert chosen.info(chosen.render({}))["steps"] == 6
