"""The stored requests draw the stored pictures, and the tolerance accepts rounding but no fault."""

import asyncio
import base64

import golden_pictures as golden
import numpy as np
import pytest

from handler.job import stored_workflows
from handler.job.profiles import load
from handler.settings import Settings

CASES = golden.cases()
RED_APPLE = next(case for case in CASES if case.name == "opaque_object")
CROWN = next(case for case in CASES if case.name == "largest_seed")


def draw(handle, request):
    reply = asyncio.run(handle({"id": "golden", "input": request}))
    assert "error" not in reply, reply
    return golden.pixels(base64.b64decode(reply["image_base64"]))


def set_patch_weight(graph, weight):
    (patch,) = (node for node in graph.values() if node["class_type"] == "LayeredDiffusionApply")
    patch["inputs"]["weight"] = weight


def stored(case):
    return golden.pixels(case.expected("tiny").read_bytes())


def test_the_stored_requests_cover_what_callers_do():
    """There are at least eight, each with a picture, including other sizes, scripts, lengths and the largest seed."""
    requests = [case.request for case in CASES]
    assert len(CASES) >= 8
    assert all(case.expected("tiny").is_file() for case in CASES)
    assert any(request["seed"] == 2**53 - 1 for request in requests)
    assert any(len(request["prompt"]) > 1000 for request in requests)
    assert any(not request["prompt"].isascii() for request in requests)
    assert any(request.get("width", 0) != request.get("height", 0) for request in requests)
    assert {request["workflow"] for request in requests if "workflow" in request} == {
        *stored_workflows.names(Settings())
    } - {Settings().workflow}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_request_is_valid_for_sdxl_too(settings, case):
    """In SDXL's sizes, the sdxl profile accepts each request."""
    chosen = {"workflow": case.request.get("workflow", settings.workflow)}
    workflow = load(settings.model_copy(update={"profile": "sdxl", **chosen}))
    request = case.sized_for(8)
    assert workflow.parse(request).values == request


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_request_draws_its_picture(handle, case):
    """Each request draws its stored picture again; scripts/golden shows the differences."""
    found = golden.differences(stored(case), draw(handle, case.request))
    assert all(difference.is_within(golden.TOLERANCE) for difference in found.values()), found


@pytest.mark.parametrize("change", [{"seed": 8}, {"prompt": "an orange apple"}, {"guidance_scale": 4.5}])
def test_another_request_draws_another_picture(handle, change):
    """A neighbouring seed, colour or guidance is outside the tolerance."""
    assert not golden.are_same(stored(RED_APPLE), draw(handle, RED_APPLE.request | change))


def test_a_weaker_patch_draws_another_picture(variant):
    """The patch at 95 % is outside the tolerance, although the picture looks right."""
    handle = variant(lambda graph, _: set_patch_weight(graph, 0.95))
    assert not golden.are_same(stored(RED_APPLE), draw(handle, RED_APPLE.request))


def test_without_the_patch_the_picture_is_opaque(variant):
    """Without the patch the base draws a background, and the job fails."""
    handle = variant(lambda graph, _: set_patch_weight(graph, 0.0), alpha_check="fail")
    # Not the red apple: on a dark ground, the tiny decoder sometimes cuts a thing out without the patch too.
    reply = asyncio.run(handle({"id": "golden", "input": CROWN.request}))
    assert reply["error"].startswith("not_transparent: picture is opaque")


@pytest.mark.parametrize(
    "damage",
    [
        lambda rgba: np.concatenate([rgba[..., :3], np.clip(rgba[..., 3:].astype(int) + 2, 0, 255)], axis=-1),
        lambda rgba: np.concatenate([np.roll(rgba[..., :3], 1, axis=1), rgba[..., 3:]], axis=-1),
        lambda rgba: np.roll(rgba, 1, axis=0),
        lambda rgba: rgba[..., [2, 1, 0, 3]],
        lambda rgba: np.concatenate([rgba[..., :3], 255 - rgba[..., 3:]], axis=-1),
        lambda rgba: np.concatenate([rgba[..., :3], np.where(rgba[..., 3:] > 127, 255, 0)], axis=-1),
    ],
    ids=["brighter alpha", "shifted colour", "shifted", "swapped channels", "inverted alpha", "hard edges"],
)
def test_damage_is_outside_the_tolerance(damage):
    """Faults that are easy to overlook are detected."""
    rgba = stored(RED_APPLE)
    assert not golden.are_same(rgba, damage(rgba).astype(np.uint8))


def test_colour_under_zero_alpha_does_not_count():
    """Colour that cannot be seen may differ."""
    rgba = stored(RED_APPLE)
    changed = rgba.copy()
    changed[rgba[..., 3] == 0, :3] = 255
    assert golden.are_same(rgba, changed)


def test_rounding_is_inside_the_tolerance():
    """A few samples may differ by 1/255, because other machines round differently."""
    rgba = stored(RED_APPLE).astype(int)
    noise = np.random.default_rng(0).integers(-1, 2, rgba.shape) * (np.random.default_rng(1).random(rgba.shape) < 0.2)
    assert golden.are_same(stored(RED_APPLE), np.clip(rgba + noise, 0, 255).astype(np.uint8))
