import struct
import zlib
from dataclasses import fields

import pytest

from handler.errors import BadPicture, NotTransparent
from handler.job.png import SIGNATURE, Alpha, _chunks, alpha_of, check_png, recompress

OTHERS = {"under_half": 0.5, "border_transparent": 0.25, "mean": 0.5, "minimum": 0.0, "maximum": 1.0}


def report(transparent, opaque, **others):
    return {"alpha": [{"transparent": transparent, "opaque": opaque, **OTHERS, **others, "width": 64}]}


def without(name):
    (entry,) = report(0.4, 0.3)["alpha"]
    return {"alpha": [{key: value for key, value in entry.items() if key != name}]}


def pixels(png):
    body = b"".join(body for kind, body in _chunks(png) if kind == b"IDAT")
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


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (report(0.4, 0.3), Alpha(transparent=0.4, opaque=0.3, **OTHERS)),
        (report(0, 0.99), Alpha(transparent=0, opaque=0.99, **OTHERS)),
        (report(0.998, 0), Alpha(transparent=0.998, opaque=0, **OTHERS)),
    ],
)
def test_a_transparent_picture_has_statistics(output, expected):
    """Pictures with some of both are accepted, thin objects and large ones too."""
    assert alpha_of(output) == expected


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (report(0.0, 1.0), "opaque: 100.0%"),
        (report(0.001, 0.995), "opaque: 99.5%"),
        (report(1.0, 0.0), "empty: 100.0%"),
    ],
)
def test_an_opaque_or_an_empty_picture_is_an_error(output, reason):
    """A picture without transparency, or without anything else, never passes as a result."""
    with pytest.raises(NotTransparent, match=reason):
        alpha_of(output)


@pytest.mark.parametrize(
    "output",
    [
        {},
        {"alpha": []},
        {"alpha": [{}]},
        {"alpha": None},
        {"images": []},
        report("0.4", 0.3),
        report(float("nan"), 0.3),
        report(0.4, 0.3, minimum=-0.1),
        report(0.4, 0.3, maximum=1.1),
        *(without(field.name) for field in fields(Alpha)),
    ],
)
def test_a_picture_without_a_report_is_an_error(output):
    """Without the output node's word on alpha nothing is taken for transparent."""
    with pytest.raises(BadPicture):
        alpha_of(output)


def test_recompression_keeps_the_pixels(make_png):
    """The recompressed PNG is smaller, complete, and decodes to the same rows."""
    png = make_png(256, 256, level=0)
    smaller = recompress(png)
    assert len(smaller) < len(png) / 10
    check_png(smaller, 256, 256)
    assert pixels(smaller) == pixels(png)


def test_a_png_without_chunks_is_rejected():
    """A signature without chunks is rejected."""
    with pytest.raises(BadPicture, match="no chunks"):
        check_png(SIGNATURE, 64, 64)


def test_a_png_must_begin_and_end_as_one(make_png):
    """Complete chunks in the wrong order are rejected."""
    png = make_png()
    end = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
    with pytest.raises(BadPicture, match="begin with IHDR"):
        check_png(SIGNATURE + end + png[8:], 64, 64)
