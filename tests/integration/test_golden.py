"""The stored requests give the stored pictures, and what the tolerance lets through and what it does not."""

import asyncio
import base64

import golden_pictures as golden
import numpy as np
import pytest

from handler.job.profiles import load

CASES = golden.cases()
RED_APPLE = next(case for case in CASES if case.name == "opaque_object")


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
    """Eight or more, each with a picture; among them other sizes, scripts, lengths and the largest seed."""
    requests = [case.request for case in CASES]
    assert len(CASES) >= 8
    assert all(case.expected("tiny").is_file() for case in CASES)
    assert any(request["seed"] == 2**53 - 1 for request in requests)
    assert any(len(request["prompt"]) > 1000 for request in requests)
    assert any(not request["prompt"].isascii() for request in requests)
    assert any(request.get("width", 0) != request.get("height", 0) for request in requests)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_request_is_one_for_sdxl_too(settings, case):
    """In SDXL's sizes, each request is one that the sdxl profile accepts."""
    workflow = load(settings.model_copy(update={"profile": "sdxl"}))
    request = case.sized_for(8)
    assert workflow.parse(request).values == request


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_request_gives_its_picture(handle, case):
    """Drawn again, each request gives the picture that is stored with it; scripts/golden shows what differs."""
    found = golden.differences(stored(case), draw(handle, case.request))
    assert all(difference.is_within(golden.TOLERANCE) for difference in found.values()), found


@pytest.mark.parametrize("change", [{"seed": 8}, {"prompt": "an orange apple"}, {"guidance_scale": 4.5}])
def test_another_request_gives_another_picture(handle, change):
    """A neighbouring seed, colour or guidance is outside the tolerance."""
    assert not golden.are_same(stored(RED_APPLE), draw(handle, RED_APPLE.request | change))


def test_a_weaker_patch_gives_another_picture(variant):
    """95 % of the patch is outside the tolerance, although a picture comes that looks right."""
    handle = variant(lambda graph, _: set_patch_weight(graph, 0.95))
    assert not golden.are_same(stored(RED_APPLE), draw(handle, RED_APPLE.request))


def test_without_the_patch_the_picture_is_opaque(variant):
    """The base draws a background; that is an error, never a picture."""
    handle = variant(lambda graph, _: set_patch_weight(graph, 0.0))
    reply = asyncio.run(handle({"id": "golden", "input": RED_APPLE.request}))
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
    """Faults that an eye might miss are found."""
    rgba = stored(RED_APPLE)
    assert not golden.are_same(rgba, damage(rgba).astype(np.uint8))


def test_colour_under_zero_alpha_does_not_count():
    """What cannot be seen may be anything."""
    rgba = stored(RED_APPLE)
    changed = rgba.copy()
    changed[rgba[..., 3] == 0, :3] = 255
    assert golden.are_same(rgba, changed)


def test_rounding_is_inside_the_tolerance():
    """One step of 1/255, here and there, is what another machine's arithmetic may do."""
    rgba = stored(RED_APPLE).astype(int)
    noise = np.random.default_rng(0).integers(-1, 2, rgba.shape) * (np.random.default_rng(1).random(rgba.shape) < 0.2)
    assert golden.are_same(stored(RED_APPLE), np.clip(rgba + noise, 0, 255).astype(np.uint8))
