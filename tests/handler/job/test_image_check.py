"""Pictures in a request: what is accepted, and what is said about anything else."""

import base64
import io
import struct
import zlib
from functools import partial

import pytest
from PIL import Image

from handler.errors import InvalidInput
from handler.job.image_check import MAX_BYTES
from handler.job.image_check import fault as image_fault
from handler.workflow.parameter import Checks, Parameter
from handler.workflow.parameters import parse

SCHEMA = {"type": "string", "format": "image", "minLength": 1, "maxLength": 5_400_000}
PARAMETERS = (Parameter("picture", "Background", "image", SCHEMA, required=True, expected="a picture"),)


def encoded(format_="PNG", size=(8, 6), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, format_)
    return buffer.getvalue()


def text(content):
    return base64.b64encode(content).decode()


def checks(fetches=True):
    return Checks(image_fault=partial(image_fault, fetches=fetches))


def fault(value, fetches=True):
    with pytest.raises(InvalidInput) as caught:
        parse({"picture": value}, PARAMETERS, checks(fetches))
    (found,) = caught.value.details
    return found


@pytest.mark.parametrize(
    ("format_", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("JPEG", "RGB"), ("WEBP", "RGBA")]
)
def test_a_picture_is_accepted(format_, mode):
    """As base64, or as a data URL; the graph gets the base64 text."""
    value = text(encoded(format_, mode=mode))
    for given in (value, f"data:image/{format_.lower()};base64,{value}"):
        assert parse({"picture": given}, PARAMETERS, checks()).values == {"picture": value}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/etc/passwd", "is neither base64, nor a data URL of a picture, nor an https URL"),
        ("file:///etc/passwd", "is neither base64, nor a data URL of a picture, nor an https URL"),
        ("data:text/plain;base64,eA==", "is neither base64, nor a data URL of a picture, nor an https URL"),
        ("not base64!", "is neither base64, nor a data URL of a picture, nor an https URL"),
        ("http://pictures.example/a.png", "must be an https URL, not an http one"),
        (text(b"GIF89a" + bytes(50)), "is not a picture in one of the formats PNG, JPEG, WEBP"),
        (text(encoded("GIF", mode="L")), "is not a picture in one of the formats PNG, JPEG, WEBP"),
        (text(encoded(size=(64, 64))[:-30]), "is a damaged picture, or one that cannot be decoded"),
        (text(encoded("JPEG", size=(64, 64))[:200]), "is a damaged picture, or one that cannot be decoded"),
        (text(encoded(size=(5000, 2))), "is 5000x2, expected at most 4096 pixels on each side"),
        (text(bytes(MAX_BYTES + 1)), f"has {MAX_BYTES + 1} bytes, expected at most {MAX_BYTES}"),
    ],
)
def test_what_is_no_picture_is_refused(value, expected):
    """The message says why; a path is never opened."""
    assert fault(value) == f"picture {expected}"


@pytest.mark.parametrize("value", [None, 7, "", [], "x" * 5_400_001])
def test_what_is_no_text_is_refused(value):
    """The message is short, however long the value is."""
    assert fault(value).startswith("picture must be a picture, got ")
    assert len(fault(value)) < 120


def test_a_url_needs_the_setting():
    """FETCH_IMAGES; all other faults are named, too."""
    url = "https://pictures.example/a.png"
    assert parse({"picture": url}, PARAMETERS, checks()).values == {"picture": url}
    expected = "picture must be base64 or a data URL: this worker does not fetch pictures (FETCH_IMAGES)"
    assert fault(url, fetches=False) == expected


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (5_000, "is 5000x5000, expected at most 4096 pixels on each side"),
        (20_000, "is a damaged picture, or one that cannot be decoded"),  # more than Pillow opens
    ],
)
def test_a_picture_with_many_pixels_in_few_bytes_is_not_decoded(side, expected):
    """A decompression bomb: the size in its header is enough to refuse it."""
    small = encoded()
    header = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    assert fault(text(bomb)) == f"picture {expected}"
