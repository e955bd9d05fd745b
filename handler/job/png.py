"""Checks that bytes are the picture that was asked for, without decoding pixels.

PNG: W3C Portable Network Graphics, third edition, sections 5 (chunks) and 11.2.1 (IHDR).
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from handler.errors import BadPicture, NotTransparent

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_HEAD = struct.Struct(">I4s")
CRC = struct.Struct(">I")
IHDR = struct.Struct(">IIBBBBB")
RGBA_COLOUR_TYPE = 6

# A cut-out has both an object and transparency around it. Without the patch, SDXL's alpha is one nearly
# everywhere; a failed sample's alpha is zero nearly everywhere.
OPAQUE_SHARE = 0.995
TRANSPARENT_SHARE = 0.999


@dataclass(frozen=True)
class Alpha:
    """What the output node reports of a picture's alpha, each in [0, 1].

    Attributes:
        transparent: share of pixels with alpha under 0.02.
        under_half: share of pixels with alpha under 0.5.
        opaque: share of pixels with alpha over 0.98.
        border_transparent: share of the outermost rows' and columns' pixels with alpha under 0.05.
        mean: mean alpha.
        minimum: smallest alpha.
        maximum: largest alpha.
    """

    transparent: float
    under_half: float
    opaque: float
    border_transparent: float
    mean: float
    minimum: float
    maximum: float


def check_png(png: bytes, width: int, height: int) -> None:
    """Checks that `png` is a complete 8-bit RGBA PNG of this size in pixels.

    Raises:
        BadPicture: it is not; the message says why.
    """
    chunks = list(_chunks(png))
    first, last = chunks[0], chunks[-1]
    if first[0] != b"IHDR" or len(first[1]) != IHDR.size or last[0] != b"IEND":
        raise BadPicture("PNG does not begin with IHDR and end with IEND")
    found_width, found_height, depth, colour_type, *_ = IHDR.unpack(first[1])
    if (depth, colour_type) != (8, RGBA_COLOUR_TYPE):
        raise BadPicture(f"PNG has bit depth {depth} and colour type {colour_type}, expected 8 and 6 (RGBA)")
    if (found_width, found_height) != (width, height):
        raise BadPicture(f"PNG is {found_width}x{found_height}, expected {width}x{height}")


def alpha_of(output: Mapping[str, Any]) -> Alpha:
    """Returns the alpha statistics that the output node reported, if the picture is truly transparent.

    Args:
        output: `{"alpha": [{…}]}` with at least the fields of Alpha, from the node's `executed` message.

    Raises:
        BadPicture: the report is missing or malformed.
        NotTransparent: the picture is opaque or empty.
    """
    match output:
        case {"alpha": [dict(report)]} if all(_is_share(report.get(field.name)) for field in fields(Alpha)):
            statistics = Alpha(**{field.name: report[field.name] for field in fields(Alpha)})
        case _:
            raise BadPicture("the output node did not report the picture's alpha")
    if statistics.opaque >= OPAQUE_SHARE:
        raise NotTransparent(f"picture is opaque: {statistics.opaque:.1%} of its pixels have alpha over 0.98")
    if statistics.transparent >= TRANSPARENT_SHARE:
        raise NotTransparent(f"picture is empty: {statistics.transparent:.1%} of its pixels have alpha under 0.02")
    return statistics


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and 0 <= value <= 1


def recompress(png: bytes) -> bytes:
    """Returns the same picture in fewer bytes: same row filters, maximum compression, slow."""
    chunks = list(_chunks(png))
    stream = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    head = [(kind, body) for kind, body in chunks if kind not in (b"IDAT", b"IEND")]
    whole = [*head, (b"IDAT", zlib.compress(stream, 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        CHUNK_HEAD.pack(len(body), kind) + body + CRC.pack(zlib.crc32(kind + body)) for kind, body in whole
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields (type, body) of each chunk; raises BadPicture if `png` is incomplete or damaged."""
    if not png.startswith(SIGNATURE):
        raise BadPicture(f"{len(png)} bytes that are not a PNG")
    view = memoryview(png)
    position = len(SIGNATURE)
    while position < len(png):
        if position + CHUNK_HEAD.size > len(png):
            raise BadPicture(f"PNG is cut short after {len(png)} bytes")
        size, kind = CHUNK_HEAD.unpack_from(png, position)
        end = position + CHUNK_HEAD.size + size + CRC.size
        if end > len(png):
            raise BadPicture(f"PNG is cut short after {len(png)} bytes")
        if zlib.crc32(view[position + 4 : end - CRC.size]) != CRC.unpack_from(png, end - CRC.size)[0]:
            raise BadPicture(f"PNG chunk {kind!r} is damaged")
        yield kind, bytes(view[position + CHUNK_HEAD.size : end - CRC.size])
        position = end
    if position == len(SIGNATURE):
        raise BadPicture("PNG has no chunks")
