"""The formats of pictures: their names, media types, and checks that do not decode pixels.

WebP: RFC 9649, sections 2.4 (file header), 2.7 (extended format) and 3.4 (image header of the lossless format).
"""

import struct
from typing import Any

from handler.errors import BadPicture
from handler.job import png

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp"}
RIFF_HEAD = struct.Struct("<4sI4s")
CHUNK_HEAD = struct.Struct("<4sI")
EXTENDED = b"VP8X"  # comes first if the file also has metadata
LOSSLESS_SIGNATURE = 0x2F
SIDE_BITS = 14


def suffix_of(encoded: bytes) -> str:
    """Returns the file name suffix of a picture, a key of MEDIA_TYPES: "webp" if it is WebP, else "png"."""
    return "webp" if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP" else "png"


def media_type(filename: str) -> str:
    """Returns the media type of a picture that the worker named."""
    return MEDIA_TYPES[filename.rpartition(".")[2]]


def check(encoded: bytes, width: int, height: int) -> None:
    """Checks that it is a complete 8-bit RGBA PNG, or a complete lossless WebP, of this size in pixels.

    Raises:
        BadPicture: it is not; the message says why.
    """
    if suffix_of(encoded) == "png":
        png.check_png(encoded, width, height)
    else:
        _check_webp(encoded, width, height)


def size_of(encoded: bytes) -> tuple[int, int]:
    """Returns (width, height) in pixels; raises BadPicture if it is neither a PNG nor a lossless WebP."""
    return png.size_of(encoded) if suffix_of(encoded) == "png" else _webp_size(encoded)


def checked(encoded: bytes, width: int, height: int) -> dict[str, Any]:
    """Returns what the reply's `info` says about the file; raises like `check`."""
    check(encoded, width, height)
    return {"format": suffix_of(encoded), "width": width, "height": height}


def smallest(encoded: bytes) -> bytes:
    """Returns the picture; if it is a PNG, compressed as hard as possible, which is slow."""
    return png.recompress(encoded) if suffix_of(encoded) == "png" else encoded


def _webp_size(webp: bytes) -> tuple[int, int]:
    try:
        _, size_bytes, _ = RIFF_HEAD.unpack_from(webp)
        place = RIFF_HEAD.size
        kind, chunk_bytes = CHUNK_HEAD.unpack_from(webp, place)
        if kind == EXTENDED:
            place += CHUNK_HEAD.size + chunk_bytes
            kind, _ = CHUNK_HEAD.unpack_from(webp, place)
        signature, sides = struct.unpack_from("<BI", webp, place + CHUNK_HEAD.size)
    except struct.error:
        raise BadPicture(f"WebP is cut short after {len(webp)} bytes") from None
    if size_bytes + 8 != len(webp):
        raise BadPicture(f"WebP has {len(webp)} bytes, expected {size_bytes + 8}")
    if kind != b"VP8L" or signature != LOSSLESS_SIGNATURE:
        raise BadPicture("WebP is not lossless")
    width, height = ((sides >> shift & (1 << SIDE_BITS) - 1) + 1 for shift in (0, SIDE_BITS))
    return width, height


def _check_webp(webp: bytes, width: int, height: int) -> None:
    found = _webp_size(webp)
    if found != (width, height):
        raise BadPicture(f"WebP is {found[0]}x{found[1]}, expected {width}x{height}")
