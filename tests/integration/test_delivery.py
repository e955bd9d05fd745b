"""What a request changes about the finished picture, through the real ComfyUI."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from handler.errors import InvalidInput


def opened(reply):
    return Image.open(io.BytesIO(base64.b64decode(reply["image_base64"])))


def ask(handle, **request):
    reply = asyncio.run(handle({"id": "formats", "input": {"prompt": "a red apple", "seed": 7} | request}))
    assert "error" not in reply, reply
    return reply, np.array(opened(reply).convert("RGBA")), json.loads(reply["info"])


def test_one_seed_in_every_form(handle):
    """WebP has the PNG's pixels; trim is a part of them, at the reported box; a background makes them opaque."""
    png, pixels, _ = ask(handle)
    webp, same, info = ask(handle, output_format="webp")
    assert np.array_equal(pixels, same)
    assert (png["filename"][-4:], webp["filename"][-5:]) == (".png", ".webp")
    assert webp["url"].startswith("data:image/webp;base64,UklGR")
    assert len(webp["image_base64"]) < 0.8 * len(png["image_base64"])
    assert info["picture"] == {"format": "webp", "width": 128, "height": 128}
    _, part, info = ask(handle, trim=True, padding=3)
    box = info["picture"]["box"]
    assert box["width"] < 100
    rows, columns = slice(box["top"], box["top"] + box["height"]), slice(box["left"], box["left"] + box["width"])
    assert np.array_equal(part[3:-3, 3:-3], pixels[rows, columns])
    assert part.shape[:2] == (info["picture"]["height"], info["picture"]["width"])
    _, flat, info = ask(handle, background="#00ff00", output_format="webp")
    assert (flat[..., 3] == 255).all()
    assert flat[0, 0].tolist() == [0, 255, 0, 255] or abs(int(flat[0, 0, 1]) - 255) < 8
    assert info["alpha"]["transparent"] > 0.01


def test_several_pictures_are_those_of_their_seeds(handle, small):
    """Each is byte for byte the picture that its seed draws on its own; none of them comes from ComfyUI's cache."""
    several, _, _ = ask(handle, **small, num_images=3)
    for entry, seed in zip(several["images"], (7, 8, 9), strict=True):
        alone, _, info = ask(handle, **small | {"seed": seed})
        assert "Sampler" in info["seconds"]
        assert (entry["seed"], entry["image_base64"]) == (seed, alone["image_base64"])
        assert (entry["width"], entry["alpha"]) == (64, info["alpha"])


def test_any_size_is_the_middle_of_the_next_multiple(handle, small):
    """100x90 is drawn as 128x128, which the info says; a multiple of 64 is not cropped."""
    _, whole, _ = ask(handle, **small | {"width": 128, "height": 128})
    reply, part, info = ask(handle, **small | {"width": 100, "height": 90}, allow_any_size=True, num_images=1)
    assert np.array_equal(part, whole[19:109, 14:114])
    assert info["picture"]["box"] == {"left": 14, "top": 19, "width": 100, "height": 90}
    assert (info["width"], info["height"], reply["images"][0]["width"]) == (128, 128, 100)
    _, same, info = ask(handle, **small | {"width": 128, "height": 128}, allow_any_size=True)
    assert np.array_equal(same, whole)
    assert "box" not in info["picture"]


def test_wrong_values_are_refused(generator):
    """Before ComfyUI sees them."""
    wrong = {"output_format": "jpg", "trim": 1, "padding": -1, "background": "#00ff00\n"}
    with pytest.raises(InvalidInput) as caught:
        generator.parse({"prompt": "x", **wrong})
    details = caught.value.details
    assert [detail.split()[0] for detail in details] == list(wrong)
    assert details[0] == 'output_format must be one of "png", "webp", got "jpg"'
    assert details[3].startswith('background must be "transparent" or a colour as #rrggbb, got')
