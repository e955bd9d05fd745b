"""Trim, padding, background and WebP of the output node."""

import io

import numpy as np
import pytest
import torch
from layerdiffuse_alpha import finish, nodes
from PIL import Image


@pytest.fixture
def send(monkeypatch):
    """Sends one picture through the real node: `send(rgba, **inputs)` returns its format, pixels and report."""
    from server import PromptServer

    class Server:
        client_id = "me"

        def __init__(self):
            self.messages = []

        def send_sync(self, event, message, client):
            self.messages.append(message)

    server = Server()
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)

    def send(rgba, **inputs):
        report = nodes.SaveAlphaImageWebsocket().send(rgba[None], **inputs)["ui"]["alpha"][0]
        image = Image.open(io.BytesIO(server.messages[-1][4:]))
        assert image.mode == "RGBA" or (image.format == "WEBP" and image.mode == "RGB")
        return server.messages[-1][3], np.array(image.convert("RGBA")), report

    return send


@pytest.fixture
def object_in_haze():
    """64x96: alpha 12/255 everywhere, with colour, and an opaque red box from (20, 10) to (50, 40)."""
    rgba = torch.full((64, 96, 4), 0.25)
    rgba[..., 3] = 12 / 255
    rgba[10:40, 20:50] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    return rgba


def test_webp_has_the_same_pixels(send):
    """All four channels of every pixel, the colour under zero alpha included."""
    values = torch.randint(0, 256, (64, 96, 4), generator=torch.Generator().manual_seed(1))
    values[:20, :, 3] = 0
    picture_format, pixels, report = send(values.float() / 255, format="webp")
    assert picture_format == 3
    assert np.array_equal(pixels, values.byte().numpy())
    assert (report["width"], report["height"]) == (96, 64)


def test_trim_ignores_haze(send, object_in_haze):
    """Only the object is left, and the report has its place; the statistics are those of the whole picture."""
    _, pixels, report = send(object_in_haze, trim=True)
    assert pixels.shape == (30, 30, 4)
    assert (pixels == [255, 0, 0, 255]).all()
    assert report["box"] == {"left": 20, "top": 10, "width": 30, "height": 30}
    assert (report["width"], report["height"]) == (30, 30)
    assert report["opaque"] == pytest.approx(900 / (64 * 96))


@pytest.mark.parametrize("alpha", [0.0, 0.04])
def test_trim_never_leaves_an_empty_picture(send, alpha):
    """A picture that is all haze stays whole."""
    _, pixels, _ = send(torch.full((64, 96, 4), alpha), trim=True)
    assert pixels.shape == (64, 96, 4)


def test_a_single_pixel_at_each_corner_is_kept(send):
    """The last row and column belong to the box."""
    rgba = torch.zeros(64, 96, 4)
    rgba[0, 95] = rgba[63, 0] = 1.0
    _, _, report = send(rgba, trim=True)
    assert report["box"] == {"left": 0, "top": 0, "width": 96, "height": 64}


def test_a_crop_keeps_the_middle(send, object_in_haze):
    """An odd rest is cut off at the right and the bottom; 0 keeps all; trim looks at what is left."""
    _, pixels, report = send(object_in_haze, crop_width=61, crop_height=0)
    assert report["box"] == {"left": 17, "top": 0, "width": 61, "height": 64}
    assert pixels.shape == (64, 61, 4)
    _, pixels, report = send(object_in_haze, crop_width=36, crop_height=40, trim=True)
    assert report["box"] == {"left": 30, "top": 12, "width": 20, "height": 28}
    assert (pixels == [255, 0, 0, 255]).all()


@pytest.mark.parametrize("trim", [True, False])
def test_padding_is_added_on_each_side(send, object_in_haze, trim):
    """It is transparent black, and added after trimming."""
    _, pixels, report = send(object_in_haze, trim=trim, padding=7)
    inner = pixels[7:-7, 7:-7]
    assert inner.shape[:2] == ((30, 30) if trim else (64, 96))
    assert pixels.sum() == inner.sum()
    assert (report["height"], report["width"]) == pixels.shape[:2]


def test_a_background_makes_the_picture_opaque(send):
    """Half-transparent red over blue is purple; padding has the colour, too."""
    rgba = torch.tensor([1.0, 0.0, 0.0, 0.5]).expand(64, 64, 4)
    for picture_format in ("png", "webp"):
        _, pixels, report = send(rgba, background="#0000Ff", padding=1, format=picture_format)
        assert pixels[0, 0].tolist() == [0, 0, 255, 255]
        assert pixels[5, 5].tolist() in ([128, 0, 127, 255], [127, 0, 128, 255], [128, 0, 128, 255])
        assert report["mean"] == 0.5


@pytest.mark.parametrize("background", ["blue", "#12345", "#1234567", "#12345g", "#123456\n", ""])
def test_any_other_background_is_an_error(background):
    """The message has what was expected."""
    with pytest.raises(ValueError, match="expected"):
        finish.flattened(torch.zeros(8, 8, 4), background)
