"""The page at / in Chromium, without ComfyUI; with it: tests/integration/test_page.py."""

import dataclasses
import shutil
import subprocess
import sys
import threading

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from painter import Up, painted_service, serving
from playwright.sync_api import expect

from handler.job.buckets import Buckets
from handler.server.readiness import Readiness
from handler.settings import Settings

KEY = "open sesame"
INFO = {"width": 64, "height": 64, "alpha": {"transparent": 0.5, "opaque": 0.5}, "checkpoint": "none"}


@pytest.fixture
def service(tmp_path):
    """Makes a service whose jobs wait, as they do until ComfyUI has started."""
    started = threading.Event()

    def make(**more):
        service, _ = painted_service(Settings(profile="tiny", data_dir=tmp_path, **more))
        comfyui = Up()
        comfyui.is_ready = False
        comfyui.stop = started.set
        return dataclasses.replace(service, readiness=Readiness(lambda: started.wait(60), lambda: None, comfyui))

    yield make
    started.set()


@pytest.fixture
def painted(tmp_path, make_png):
    """Makes a service that draws at once, and its painter."""

    def make(buckets=None, **more):
        settings = Settings(profile="tiny", data_dir=tmp_path, **more)
        service, painter = painted_service(settings, buckets and buckets(settings))
        painter.png, painter.info = make_png(64, 64), INFO
        return service, painter

    return make


def status(page):
    return expect(page.get_by_role("status"))


def submit(url, prompt):
    return requests.post(f"{url}/v2/page/run", json={"input": {"prompt": prompt}}, timeout=10).json()["id"]


def draw(page, prompt="a red apple"):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Draw").click()
    status(page).to_contain_text("done in")


def test_a_server_with_keys_asks_for_one(open_page, service):
    """When it draws. Escape goes back to where the focus was; a key is kept for the session."""
    with serving(service(api_keys=KEY)) as url:
        page = open_page(url)
        key = page.get_by_label("Enter this server's API key")
        expect(key).to_be_hidden()
        page.get_by_role("button", name="Draw").click()
        expect(key).to_be_focused()
        key.press("Escape")
        expect(key).to_be_hidden()
        expect(page.get_by_role("button", name="Draw")).to_be_focused()
        status(page).to_contain_text("Bearer")
        page.get_by_role("button", name="Draw").click()
        key.fill(KEY)
        key.press("Enter")
        expect(key).to_be_hidden()
        expect(page.get_by_role("button", name="Draw")).to_be_focused()
        status(page).to_have_text("ComfyUI starts")
        page.reload()
        status(page).to_have_text("ComfyUI starts")
        expect(key).to_be_hidden()
        page.goto("about:blank")  # it would ask on and on
        page.complaints[:] = [line for line in page.complaints if "401" not in line]


def test_a_server_that_is_gone_is_named(open_page, service):
    """The page stays usable and shows the problem."""
    with serving(service()) as url:
        page = open_page(url)
        expect(page.locator("#size option")).not_to_have_count(0)
    page.get_by_role("button", name="Draw").click()
    status(page).to_have_text("The server does not answer.")
    page.complaints[:] = [line for line in page.complaints if "ERR_CONNECTION_REFUSED" not in line]


def test_a_picture_survives_failed_polls_and_a_reload(open_page, painted):
    """Polls that fail are repeated; after a reload the page shows the running job, and then its picture."""
    service, painter = painted()
    with serving(service) as url:
        page = open_page(url)
        page.get_by_label("Prompt", exact=True).fill("steps")
        page.get_by_role("button", name="Draw").click()
        status(page).to_have_text("step 2 of 20")
        page.route("**/status/*", lambda route: route.abort())
        status(page).to_have_text("The server does not answer. Trying again…")
        page.unroute("**/status/*")
        status(page).to_have_text("step 2 of 20")
        service.readiness.comfyui.is_ready = False
        status(page).to_have_text("ComfyUI restarts")
        assert page.locator("#bar").get_attribute("value") is None
        service.readiness.comfyui.is_ready = True
        page.reload()
        status(page).to_have_text("step 2 of 20")
        painter.go_on.set()
        status(page).to_contain_text("done in")
        expect(page.locator("#last img")).to_have_count(1)
        page.reload()
        expect(page.locator("#last img")).to_have_count(1)
        status(page).to_have_text("")
    page.complaints[:] = [line for line in page.complaints if "ERR_FAILED" not in line]


def test_the_demo_model_is_named(open_page, service):
    """A banner says what the tiny model can draw; a click on a suggestion fills in the prompt."""
    with serving(service()) as url:
        page = open_page(url)
        expect(page.get_by_text("Demo model")).to_be_visible()
        page.get_by_role("button", name="a red heart, sticker").click()
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red heart, sticker")
        assert "512" not in page.locator("#size").inner_text()
        page.get_by_label("Size").select_option("other")
        page.get_by_label("Width").fill("384")
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#width:invalid")).to_have_count(1)


def test_the_place_in_the_queue_is_shown(open_page, painted):
    """It counts down, also after a reload."""
    service, _ = painted()
    with serving(service) as url:
        before = [submit(url, "wait") for _ in range(2)]
        page = open_page(url)
        expect(page.locator("#size option")).not_to_have_count(0)
        page.get_by_label("Pictures", exact=True).fill("2")
        page.get_by_role("button", name="Draw").click()
        status(page).to_have_text("picture 1 of 2: number 2 in the queue")
        page.reload()
        status(page).to_have_text("picture 1 of 2: number 2 in the queue")
        requests.post(f"{url}/v2/page/cancel/{before[0]}", timeout=10)
        status(page).to_have_text("picture 1 of 2: number 1 in the queue")
        requests.post(f"{url}/v2/page/cancel/{before[1]}", timeout=10)
        status(page).to_contain_text("done in")


def test_a_picture_in_a_bucket_is_shown(open_page, painted, s3):
    """From the bucket's own origin, now and in the recent pictures after a reload."""
    names = {"bucket_access_key_id": "key", "bucket_secret_access_key": "hush", "bucket_name": "pictures"}
    service, _ = painted(Buckets, bucket_endpoint_url=s3, **names)
    with serving(service) as url:
        page = open_page(url)
        draw(page)
        shown = page.locator("#stage img")
        assert shown.get_attribute("src").startswith(s3)
        expect(shown).to_have_js_property("naturalWidth", 64)
        expect(page.locator("#facts")).to_contain_text("in the bucket")
        page.reload()
        expect(page.locator("#last img")).to_have_js_property("naturalWidth", 64)


def test_all_fields_are_sent_and_come_back(open_page, painted):
    """Every setting reaches the job; seeds count up; "use these settings" and "next seed" work in another tab, too."""
    service, painter = painted()
    with serving(service) as url:
        page = open_page(url)
        expect(page.locator("#size option")).not_to_have_count(0)
        other = page.context.new_page()
        other.goto(url)
        for label, value in {
            "Negative prompt": "dull",
            "Steps": "4",
            "Guidance": "2.5",
            "Seed": "5",
            "Pictures": "2",
        }.items():
            page.get_by_label(label, exact=True).fill(value)
        page.get_by_label("Size").select_option("landscape_3_2")
        expect(page.locator("#workflow option")).to_have_text(
            ["txt2img_alpha", "foreground_on_background", "txt2img_alpha_turbo"]
        )
        page.get_by_label("Workflow").select_option("txt2img_alpha_turbo")
        page.get_by_label("Trim to the object").check()
        draw(page)
        sent = {
            "prompt": "a red apple",
            "negative_prompt": "dull",
            "num_inference_steps": 4,
            "guidance_scale": 2.5,
            "size": "landscape_3_2",
            "trim": True,
            "workflow": "txt2img_alpha_turbo",
        }
        assert painter.parsed == [{**sent, "seed": 5}, {**sent, "seed": 6}]
        expect(other.locator("#last img")).to_have_count(2)
        other.locator("#last button").last.click()
        other.get_by_role("button", name="Use these settings").click()
        expect(other.get_by_label("Seed")).to_have_value("5")
        expect(other.get_by_label("Negative prompt")).to_have_value("dull")
        other.get_by_role("button", name="Same with next seed").click()
        status(other).to_contain_text("done in")
        assert painter.parsed[2:] == [{**sent, "seed": 6}]
        other.get_by_label("Size").select_option("other")
        other.get_by_label("Width").fill("65")
        other.get_by_role("button", name="Draw").click()
        expect(other.locator("#width:invalid")).to_have_count(1)
        with other.expect_download() as download:
            other.get_by_role("button", name="Download all").click()
        assert download.value.suggested_filename.startswith("alpha_1_")


def test_escape_cancels_and_the_focus_stays(open_page, painted):
    """While a picture is drawn, and afterwards, the button keeps the focus."""
    service, _ = painted()
    with serving(service) as url:
        page = open_page(url)
        page.get_by_label("Prompt", exact=True).fill("wait")
        button = page.get_by_role("button", name="Draw")
        button.click()
        status(page).to_have_text("loading the model")
        expect(button).to_be_focused()
        page.keyboard.press("Escape")
        status(page).to_have_text("cancelled: the job was cancelled")
        expect(button).to_be_focused()


def test_a_job_is_cancelled_while_it_is_submitted(open_page, painted):
    """Cancel may come before the server has answered with the job's id."""
    service, _ = painted()
    with serving(service) as url:
        page = open_page(url)
        expect(page.locator("#size option")).not_to_have_count(0)
        page.get_by_label("Prompt", exact=True).fill("wait")
        page.evaluate("document.getElementById('go').click(); document.getElementById('stop').click()")
        status(page).to_have_text("cancelled: the job was cancelled")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_picture_without_scrolling(open_page, painted, scheme):
    """Nothing is wider than the screen, and axe finds no fault, with all parts open."""
    service, _ = painted()
    with serving(service) as url:
        page = open_page(url, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
        draw(page)
        box = page.locator("#stage img").bounding_box()
        assert box["height"] > 250
        assert box["y"] + box["height"] <= 740
        page.locator("#settings").evaluate("details => { details.open = true }")
        page.get_by_label("Size").select_option("other")
        for ground in ("board", "all"):
            page.get_by_label("Background", exact=True).select_option(ground)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            assert Axe().run(page).response["violations"] == []


def test_the_image_is_copied_enlarged_and_dragged_out(open_page, painted):
    """As PNG to the clipboard; by whole pixels; with its name."""
    service, _ = painted()
    with serving(service) as url:
        page = open_page(url)
        draw(page)
        page.get_by_role("button", name="Copy image").click()
        status(page).to_have_text("copied")
        kinds = page.evaluate("navigator.clipboard.read().then(items => items.map(item => item.types))")
        assert kinds == [["image/png"]]
        page.get_by_label("Zoom").select_option("8")
        expect(page.locator("#stage img")).to_have_js_property("clientWidth", 512)
        assert page.locator("#stage img").evaluate("img => getComputedStyle(img).imageRendering") == "pixelated"
        dragged = """img => {
          const event = new DragEvent("dragstart", {dataTransfer: new DataTransfer()});
          img.dispatchEvent(event);
          return event.dataTransfer.getData("DownloadURL");
        }"""
        assert page.locator("#stage img").evaluate(dragged).startswith("image/png:alpha_1_000001.png:blob:http://127")
        favicon = page.request.get(f"{url}/page/favicon.svg")
        assert favicon.headers["content-type"] == "image/svg+xml"


def test_the_copied_programs_run(open_page, painted, tmp_path):
    """The page's curl, Python and JavaScript, run unchanged, send the page's request and get a picture."""
    service, painter = painted()
    with serving(service) as url:
        page = open_page(url)
        page.get_by_label("Trim to the object").check()
        draw(page, 'it\'s an `${apple}` \\ "red"')
        expected = {
            **painter.parsed[0],
            "seed": int(page.locator("#facts").inner_text().split("seed ")[1].split(",")[0]),
        }
        programs = {
            "curl": ["bash", "-c"],
            "Python": [sys.executable, "-c"],
            "JavaScript": ["node", "--input-type=module", "-e"],
        }
        for kind, command in programs.items():
            if shutil.which(command[0]) is None:
                continue
            folder = tmp_path / kind
            folder.mkdir()
            page.get_by_role("button", name=f"Copy as {kind}").click()
            status(page).to_have_text("copied")
            program = page.evaluate("navigator.clipboard.readText()")
            done = subprocess.run(
                [*command, program], capture_output=True, text=True, cwd=folder, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            assert painter.parsed[-1] == expected
            page.evaluate("document.getElementById('state').textContent = ''")
            if kind == "curl":
                assert f'"seed":{expected["seed"]}' in done.stdout
            else:
                assert [path.read_bytes() for path in folder.iterdir()] == [painter.png]
