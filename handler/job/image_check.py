"""Checks the pictures in a request, by decoding them."""

import base64
import binascii
import io

from PIL import Image, UnidentifiedImageError

from handler.workflow.input_image import is_url, text_of

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 4_000_000
MAX_SIDE = 4096  # pixels


class BadImage(ValueError):
    """It is not a picture that can be used; the message says why, and is the end of a sentence."""


def fault(value: str, fetches: bool) -> str | None:
    """Returns what is wrong with a picture, or with its URL; None if it can be used.

    Args:
        fetches: whether this worker fetches pictures.
    """
    if is_url(value):
        if not value.lower().startswith("https:"):
            return "must be an https URL, not an http one"
        return None if fetches else "must be base64 or a data URL: this worker does not fetch pictures (FETCH_IMAGES)"
    try:
        check(decoded(value))
    except BadImage as exc:
        return str(exc)
    return None


def decoded(value: str) -> bytes:
    """Returns the encoded picture in base64 text or a data URL; raises BadImage."""
    try:
        return base64.b64decode(text_of(value), validate=True)
    except (binascii.Error, ValueError):
        raise BadImage("is neither base64, nor a data URL of a picture, nor an https URL") from None


def check(encoded: bytes) -> None:
    """Decodes the whole picture.

    Raises:
        BadImage: it has too many bytes or pixels, another format than FORMATS, or is damaged.
    """
    if len(encoded) > MAX_BYTES:
        raise BadImage(f"has {len(encoded)} bytes, expected at most {MAX_BYTES}")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            width, height = picture.size
            if max(width, height) <= MAX_SIDE:
                picture.load()
    except UnidentifiedImageError:
        raise BadImage(f"is not a picture in one of the formats {', '.join(FORMATS)}") from None
    except Exception as exc:  # each format's decoder raises errors of its own
        raise BadImage("is a damaged picture, or one that cannot be decoded") from exc
    if max(width, height) > MAX_SIDE:
        raise BadImage(f"is {width}x{height}, expected at most {MAX_SIDE} pixels on each side")
