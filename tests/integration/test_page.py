"""The page at / in Chromium, against the real server; without a worker: tests/handler/server/test_web_page.py."""

import io
import os

import pytest
from PIL import Image
from playwright.sync_api import expect

MINUTE_MS = 60_000


def draw(page, prompt):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("status")).to_contain_text("done in", timeout=MINUTE_MS)


def choose_size(page, pixels):
    """Chooses a square size."""
    page.get_by_label("Size").select_option("other")
    page.get_by_label("Width").fill(pixels)
    page.get_by_label("Height").fill(pixels)


def colour_in_the_corner(page):
    """Returns the RGB of the pixel just inside the stage's top left corner."""
    shot = Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")
    return shot.getpixel((4, 4))


def test_a_picture_is_drawn_viewed_and_downloaded(server, open_page, tmp_path):
    """Prompt, progress, backgrounds, alpha, download, copies, and recent pictures."""
    page = open_page(server.url, viewport={"width": 1200, "height": 900})
    page.get_by_label("Prompt", exact=True).fill("a green leaf")
    choose_size(page, "192")
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("status")).to_contain_text("step", timeout=MINUTE_MS)
    expect(page.get_by_role("status")).to_contain_text("done in", timeout=MINUTE_MS)
    choose_size(page, "128")
    draw(page, "it's a red apple")
    expect(page.locator("#facts")).to_contain_text("128x128, seed 7")
    ground = page.get_by_label("Background", exact=True)
    for name, expected in [("Black", (0, 0, 0)), ("White", (255, 255, 255))]:
        ground.select_option(name)
        assert colour_in_the_corner(page) == expected
    page.get_by_label("Background colour").fill("#ff0080")
    assert colour_in_the_corner(page) == (255, 0, 128)
    page.get_by_role("checkbox", name="Alpha only").check()
    assert colour_in_the_corner(page) == (0, 0, 0)
    page.get_by_role("checkbox", name="Alpha only").uncheck()
    ground.select_option("Checkerboard")
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    with Image.open(download.value.path()) as saved:
        assert (saved.mode, saved.size) == ("RGBA", (128, 128))
    assert download.value.suggested_filename.startswith("alpha_")
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("status")).to_have_text("copied")
    assert r"it'\''s a red apple" in page.evaluate("navigator.clipboard.readText()")
    expect(page.locator("#last img")).to_have_count(2)
    page.reload()
    expect(page.locator("#last img")).to_have_count(2)
    page.locator("#last button").last.click()
    expect(page.locator("#facts")).to_contain_text("a green leaf")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#last img")).to_have_count(0)


def test_it_works_by_keyboard_on_a_phone_in_the_dark(server, open_page, tmp_path):
    """Control + Enter draws; nothing is wider than the screen; the background is dark."""
    page = open_page(server.url, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True)
    page.keyboard.press("Control+A")
    page.keyboard.type("a yellow moon")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("status")).to_contain_text("done in", timeout=MINUTE_MS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, background[4:-1].split(","))) < 60
    page.screenshot(path=tmp_path / "phone.png", full_page=True)


def test_a_job_can_be_cancelled(server, open_page):
    """The error is shown, and the next picture is drawn."""
    page = open_page(server.url)
    choose_size(page, "256")
    page.get_by_label("Steps").fill("60")
    page.get_by_role("button", name="Draw").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_contain_text("cancelled", timeout=MINUTE_MS)
    choose_size(page, "128")
    draw(page, "a red apple")


def test_a_picture_of_the_callers_is_used(server, open_page, tmp_path):
    """A workflow with an input picture asks for one, shows it behind the result, and keeps it for the next seed.

    It is as large as the server accepts, so two jobs are more than the browser keeps of unfinished ones.
    """
    background, noisy = tmp_path / "background.png", Image.frombytes("RGB", (1450, 1010), os.urandom(3 * 1450 * 1010))
    noisy.paste((32, 160, 96), (0, 0, 400, 400))
    noisy.save(background)
    page = open_page(server.url, viewport={"width": 1200, "height": 900})
    page.get_by_label("Workflow").select_option("foreground_on_background")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#file:invalid")).to_have_count(1)
    page.get_by_label("background image").set_input_files(background)
    expect(page.get_by_alt_text("The picture that is used")).to_be_visible()
    page.get_by_label("Pictures", exact=True).fill("2")
    draw(page, "a red apple")
    expect(page.locator("#last img")).to_have_count(2, timeout=MINUTE_MS)
    page.get_by_label("Background", exact=True).select_option("Input picture")
    stage = page.locator("#stage").bounding_box()
    shot = Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")
    inside = int(stage["width"] / 2 - stage["height"] / 2 + 8)  # the picture is square, and as high as the stage
    assert shot.getpixel((inside, 8)) == pytest.approx((32, 160, 96), abs=2)  # scaled twice
    page.screenshot(path=tmp_path / "given.png", full_page=True)
    expect(page.get_by_role("button", name="Copy as curl")).to_be_hidden()  # it would have the whole picture
    page.reload()
    page.locator("#last button").first.click()
    page.get_by_role("button", name="Same with next seed").click()
    expect(page.get_by_role("status")).to_contain_text("done in", timeout=MINUTE_MS)
    expect(page.locator("#facts")).to_contain_text("seed 9")
    page.get_by_label("Workflow").select_option("")
    draw(page, "a blue fish")
    expect(page.get_by_role("button", name="Copy as curl")).to_be_visible()
