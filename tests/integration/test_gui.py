"""scripts/gui in a browser: the stored workflow is open, and saving it writes the files that the worker reads."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import requests
from server import ROOT, free_port

STARTED = "window.app?.graph?.nodes?.some((node) => node.title === 'Alpha Decode')"
TOASTS = "[...document.querySelectorAll('.p-toast-message')].map((toast) => toast.innerText)"
# The smallest and the largest alpha of an image element.
EXTREME_ALPHA = """
(() => {
  const canvas = new OffscreenCanvas(128, 128).getContext("2d");
  canvas.drawImage(IMAGE, 0, 0);
  const alphas = canvas.getImageData(0, 0, 128, 128).data.filter((_, index) => index % 4 === 3);
  return [Math.min(...alphas), Math.max(...alphas)];
})()
"""

pytestmark = pytest.mark.soak


@pytest.fixture
def workflows(tmp_path):
    return shutil.copytree(ROOT / "workflows", tmp_path / "workflows")


@pytest.fixture
def gui(workflows):
    """The URL of a ComfyUI that scripts/gui has started."""
    port = free_port()
    environment = os.environ | {"WORKFLOWS_DIR": str(workflows), "PROFILE": "tiny"}
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
def page(browser, gui):
    page = browser.new_page(viewport={"width": 1400, "height": 800})
    page.goto(gui)
    page.wait_for_function(STARTED, timeout=60_000)
    yield page
    page.close()


def said(page, text):
    page.wait_for_function(f"{TOASTS}.some((text) => text.includes({json.dumps(text)}))", timeout=20_000)


def test_the_stored_workflow_is_opened_edited_and_saved(page, workflows):
    """Ctrl+S stores an edit in one line; Run shows the picture; a graph without the patch is refused."""
    path = workflows / "txt2img_alpha.json"
    before = path.read_text("utf-8").splitlines()
    widgets = "app.graph.nodes.find((node) => node.title === '{}').widgets"
    assert page.evaluate(widgets.format("Checkpoint") + "[0].value") == "tiny_sdxl.safetensors"
    page.evaluate(widgets.format("Sampler") + ".find((widget) => widget.name === 'steps').value = 13")
    page.keyboard.press("Control+s")
    said(page, "Saved txt2img_alpha")
    after = path.read_text("utf-8").splitlines()
    assert [new for old, new in zip(before, after, strict=True) if old != new] == ['      "steps": 13,']
    layout = json.loads((workflows / "txt2img_alpha.layout.json").read_text("utf-8"))
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
