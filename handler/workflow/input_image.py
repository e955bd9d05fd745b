"""The forms in which a request has a picture: base64 text, a data URL, or an https URL; never a path."""

import re

IMAGE_FORMAT = "image"  # JSON Schema's `format` of a picture
DATA_URL = re.compile(r"data:image/[a-z+.-]+;base64,", re.IGNORECASE)
URL = re.compile(r"https?://", re.IGNORECASE)


def is_url(value: str) -> bool:
    """Returns whether the picture has to be fetched."""
    return URL.match(value) is not None


def is_data_url(value: str) -> bool:
    """Returns whether the picture is in a data URL."""
    return DATA_URL.match(value) is not None


def text_of(value: str) -> str:
    """Returns the base64 text of a data URL; other values are not changed."""
    found = DATA_URL.match(value)
    return value[found.end() :] if found else value
