import struct
import zlib

import pytest

from handler.errors import BadPicture
from handler.job.png import SIGNATURE, check_png, chunks, recompress


def pixels(png):
    body = b"".join(body for kind, body in chunks(png) if kind == b"IDAT")
    return zlib.decompress(body)


def test_a_whole_rgba_png_of_the_size_is_accepted(make_png):
    """The output node's PNG passes the check."""
    assert check_png(make_png(128, 64), 128, 64) is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"width": 128}, "128x64, expected 64x64"),
        ({"colour_type": 2}, "colour type 2"),
        ({"depth": 16}, "bit depth 16"),
    ],
)
def test_another_picture_is_rejected(make_png, arguments, reason):
    """A PNG of another size or pixel format is rejected."""
    with pytest.raises(BadPicture, match=reason):
        check_png(make_png(**arguments), 64, 64)


def test_no_cut_is_accepted(make_png):
    """A PNG is rejected if any number of bytes is missing at the end."""
    png = make_png()
    for length in range(len(png)):
        with pytest.raises(BadPicture):
            check_png(png[:length], 64, 64)


def test_no_changed_byte_is_accepted(make_png):
    """A PNG is rejected if any byte is damaged."""
    png = make_png()
    for position in range(len(png)):
        damaged = bytearray(png)
        damaged[position] ^= 0x10
        with pytest.raises(BadPicture):
            check_png(bytes(damaged), 64, 64)


def test_recompression_keeps_the_pixels(make_png):
    """The recompressed PNG is smaller, complete, and decodes to the same rows."""
    png = make_png(256, 256, level=0)
    smaller = recompress(png)
    assert len(smaller) < len(png) / 10
    check_png(smaller, 256, 256)
    assert pixels(smaller) == pixels(png)


def test_a_png_withoutchunks_is_rejected():
    """A signature without chunks is rejected."""
    with pytest.raises(BadPicture, match="no chunks"):
        check_png(SIGNATURE, 64, 64)


def test_a_png_must_begin_and_end_as_one(make_png):
    """Complete chunks in the wrong order are rejected."""
    png = make_png()
    end = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
    with pytest.raises(BadPicture, match="begin with IHDR"):
        check_png(SIGNATURE + end + png[8:], 64, 64)
