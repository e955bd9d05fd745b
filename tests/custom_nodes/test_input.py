"""The node that reads a picture from base64 text."""

import base64
import io

import pytest
import torch
from layerdiffuse_alpha import nodes
from PIL import Image

SIZE = {"samples": torch.zeros(1, 4, 8, 16)}  # 64 high, 128 wide


def text(picture, format_="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def load(value):
    (loaded,) = nodes.LoadEncodedImage().load(value, SIZE)
    return loaded


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_has_the_size_of_the_latent(format_, mode):
    """Three channels in [0, 1]; also as a data URL."""
    value = text(Image.new(mode, (30, 30), "white"), format_)
    for given in (value, f"data:image/png;base64,{value}"):
        loaded = load(given)
        assert loaded.shape == (1, 64, 128, 3)
        assert loaded.dtype == torch.float32
        assert (loaded - 1).abs().max() < 0.02


def test_a_picture_covers_the_size_and_keeps_its_proportions():
    """A square one is cut at the top and the bottom."""
    picture = Image.new("RGB", (128, 128), "white")
    picture.paste("black", (0, 0, 128, 32))
    picture.paste("red", (0, 32, 64, 64))
    loaded = load(text(picture))[0]
    assert torch.equal(loaded[10, 20], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(loaded[10, 100], torch.ones(3))
    assert torch.equal(loaded[50, 20], torch.ones(3))


def test_a_photo_is_turned_as_its_camera_says():
    """EXIF orientation 3: upside down."""
    picture = Image.new("RGB", (128, 64), "white")
    picture.paste("black", (0, 0, 128, 32))
    exif = Image.Exif()
    exif[0x0112] = 3
    loaded = load(text(picture, exif=exif))[0]
    assert torch.equal(loaded[5, 5], torch.ones(3))
    assert torch.equal(loaded[60, 5], torch.zeros(3))


@pytest.mark.parametrize("value", ["", "/etc/passwd", "R0lGODlh", "data:image/png;base64,"])
def test_what_is_no_picture_is_an_error(value):
    with pytest.raises(ValueError, match="not a picture in base64"):
        load(value)
