"""PNG and WebP are told apart and checked without decoding pixels."""

import io

import pytest
from PIL import Image

from handler.errors import BadPicture
from handler.job import formats


def webp(width=96, height=64, **options):
    buffer = io.BytesIO()
    Image.new("RGBA", (width, height), (1, 2, 3, 4)).save(buffer, "WEBP", **{"lossless": True, **options})
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(96, 64), (1, 1), (2560, 31), (16383, 1)])
def test_a_lossless_webp_of_the_size_passes(width, height):
    assert formats.check(webp(width, height), width, height) is None


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (webp(), "WebP is 96x64, expected 96x65"),
        (webp()[:-1], "expected"),
        (webp() + b"x", "expected"),
        (webp()[:14], "cut short"),
        (webp(lossless=False), "not lossless"),
        (webp(exif=b"Exif"), "WebP is 96x64, expected 96x65"),
        (webp(exif=b"Exif")[:24], "cut short"),
        (webp(exif=b"Exif", lossless=False), "not lossless"),
        (b"GIF89a", "not a PNG"),
    ],
)
def test_anything_else_is_a_bad_picture(encoded, message):
    """Wrong size, cut short, too long, lossy, another format."""
    with pytest.raises(BadPicture, match=message):
        formats.check(encoded, 96, 65)


def test_a_png_is_checked_as_before(make_png):
    """The suffix and the media type follow from the bytes."""
    png = make_png(64, 64)
    assert formats.check(png, 64, 64) is None
    assert [formats.suffix_of(encoded) for encoded in (png, webp())] == ["png", "webp"]
    assert [formats.media_type(f"alpha_1_abcdef.{suffix}") for suffix in ("png", "webp")] == ["image/png", "image/webp"]
