"""Checks that bytes are the picture that was asked for, without decoding pixels.

PNG: W3C Portable Network Graphics, third edition, sections 5 (chunks) and 11.2.1 (IHDR).
"""

import struct
import zlib
from collections.abc import Iterator

from handler.errors import BadPicture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_HEAD = struct.Struct(">I4s")
CRC = struct.Struct(">I")
IHDR = struct.Struct(">IIBBBBB")
RGBA_COLOUR_TYPE = 6


def check_png(png: bytes, width: int, height: int) -> None:
    """Checks that `png` is a complete 8-bit RGBA PNG of this size in pixels.

    Raises:
        BadPicture: it is not; the message says why.
    """
    found = list(chunks(png))
    first, last = found[0], found[-1]
    if first[0] != b"IHDR" or len(first[1]) != IHDR.size or last[0] != b"IEND":
        raise BadPicture("PNG does not begin with IHDR and end with IEND")
    found_width, found_height, depth, colour_type, *_ = IHDR.unpack(first[1])
    if (depth, colour_type) != (8, RGBA_COLOUR_TYPE):
        raise BadPicture(f"PNG has bit depth {depth} and colour type {colour_type}, expected 8 and 6 (RGBA)")
    if (found_width, found_height) != (width, height):
        raise BadPicture(f"PNG is {found_width}x{found_height}, expected {width}x{height}")


def size_of(png: bytes) -> tuple[int, int]:
    """Returns (width, height) in pixels of a PNG; raises BadPicture if it is not one."""
    kind, body = next(chunks(png))
    if kind != b"IHDR" or len(body) != IHDR.size:
        raise BadPicture("PNG does not begin with IHDR")
    width, height, *_ = IHDR.unpack(body)
    return width, height


def recompress(png: bytes) -> bytes:
    """Returns the same picture in fewer bytes: same row filters, maximum compression, slow."""
    found = list(chunks(png))
    stream = zlib.decompress(b"".join(body for kind, body in found if kind == b"IDAT"))
    head = [(kind, body) for kind, body in found if kind not in (b"IDAT", b"IEND")]
    whole = [*head, (b"IDAT", zlib.compress(stream, 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        CHUNK_HEAD.pack(len(body), kind) + body + CRC.pack(zlib.crc32(kind + body)) for kind, body in whole
    )


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
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
