"""The page at / on a server that asks for a key, and on one that is gone."""

import dataclasses
import threading

import pytest
from painter import Up, painted_service, serving
from playwright.sync_api import expect

from handler.server.readiness import Readiness
from handler.settings import Settings

KEY = "open sesame"


@pytest.fixture
def service(tmp_path):
    """Makes a service whose jobs wait, as they do until ComfyUI has started."""
    started = threading.Event()

    def make(**more):
        service, _ = painted_service(Settings(profile="tiny", data_dir=tmp_path, **more))
        comfyui = Up()
        comfyui.stop = started.set
        return dataclasses.replace(service, readiness=Readiness(lambda: started.wait(60), comfyui))

    yield make
    started.set()


def test_a_server_with_keys_asks_for_one(open_page, service):
    """The field appears when it is needed, and with the key the page loads the server's limits."""
    with serving(service(api_keys=KEY)) as url:
        page = open_page(url)
        expect(page.get_by_label("Enter this server's API key")).to_be_visible()
        expect(page.get_by_role("status")).to_contain_text("Bearer")
        page.get_by_label("Enter this server's API key").fill(KEY)
        page.get_by_label("Enter this server's API key").press("Tab")
        expect(page.locator("#width option")).not_to_have_count(0)
        page.get_by_role("button", name="Draw").click()
        expect(page.get_by_role("status")).to_have_text("queued")
        page.goto("about:blank")  # it would ask on and on
        page.complaints[:] = [line for line in page.complaints if "401" not in line]


def test_a_server_that_is_gone_is_named(open_page, service):
    """The page stays usable and shows the problem."""
    with serving(service()) as url:
        page = open_page(url)
        expect(page.locator("#width option")).not_to_have_count(0)
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("status")).to_have_text("The server does not answer.")
    page.complaints[:] = [line for line in page.complaints if "ERR_CONNECTION_REFUSED" not in line]


def test_a_picture_survives_failed_polls_and_a_reload(open_page, make_png, tmp_path):
    """Polls that fail are repeated; after a reload the page shows the running job, and then its picture."""
    service, painter = painted_service(Settings(profile="tiny", data_dir=tmp_path))
    painter.png = make_png(64, 64)
    painter.info = {"width": 64, "height": 64, "alpha": {"transparent": 0.5, "opaque": 0.5}, "checkpoint": "none"}
    with serving(service) as url:
        page = open_page(url)
        expect(page.locator("#width option")).not_to_have_count(0)
        page.get_by_label("Prompt", exact=True).fill("steps")
        page.get_by_role("button", name="Draw").click()
        expect(page.get_by_role("status")).to_have_text("step 2 of 20")
        page.route("**/status/*", lambda route: route.abort())
        expect(page.get_by_role("status")).to_have_text("The server does not answer. Trying again…")
        page.unroute("**/status/*")
        expect(page.get_by_role("status")).to_have_text("step 2 of 20")
        page.reload()
        expect(page.get_by_role("status")).to_have_text("step 2 of 20")
        painter.go_on.set()
        expect(page.get_by_role("status")).to_contain_text("done in")
        expect(page.locator("#last img")).to_have_count(1)
        page.reload()
        expect(page.locator("#last img")).to_have_count(1)
        expect(page.get_by_role("status")).to_have_text("")
    page.complaints[:] = [line for line in page.complaints if "ERR_FAILED" not in line]


def test_the_demo_model_is_named(open_page, service):
    """A banner says what the tiny model can draw; a click on a suggestion fills in the prompt."""
    with serving(service()) as url:
        page = open_page(url)
        expect(page.get_by_text("Demo model")).to_be_visible()
        page.get_by_role("button", name="a golden star").click()
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("a golden star")
