"""The reply to a RunPod job, within the size that RunPod accepts."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from handler.errors import ReplyTooLarge
from handler.job.picture import Outcome
from handler.job.png import recompress
from handler.settings import WorkerSettings

DATA_URL = "data:image/png;base64,"
# The fields that carry the picture. When they do not fit, the ones at the end are dropped first.
COPIES = ("image_base64", "url", "image_url")


@dataclass(frozen=True)
class Shape:
    """What a reply may be.

    Attributes:
        limit_bytes: maximum size as JSON.
        fields: those that carry the picture.
    """

    limit_bytes: int
    fields: tuple[str, ...] = COPIES

    @classmethod
    def of(cls, settings: WorkerSettings) -> Self:
        """Returns the shape that the settings ask for."""
        chosen = settings.reply_fields
        return cls(settings.reply_limit_bytes, COPIES if chosen == "all" else (chosen,))


def build(outcome: Outcome, png: bytes | None, shape: Shape) -> dict[str, Any]:
    """Returns the reply: status, url, image_url, image_base64, filename, the random values, info (JSON text).

    If the picture has a URL, `url` and `image_url` are that URL and there is no base64. Otherwise the reply
    carries the picture in each of `shape.fields`: as a data URL under two names, and as bare base64. If that
    is too large, `image_url` is dropped, then `url`, then the picture is compressed harder.

    Args:
        png: the picture; None if the outcome has a URL.
        shape: its maximum size, and the fields that carry the picture.

    Raises:
        ReplyTooLarge: even a single copy of the smallest encoding is too large.
    """
    facts = _facts(outcome)
    if outcome.url is not None:
        return {"status": "success", "url": outcome.url, "image_url": outcome.url, **facts}
    assert png is not None
    png, fields = _fit(facts, png, shape)
    encoded = base64.b64encode(png).decode("ascii")
    data_url = DATA_URL + encoded if fields != ("image_base64",) else ""
    pictures = {"url": data_url, "image_url": data_url, "image_base64": encoded}
    return {"status": "success", **{name: value for name, value in pictures.items() if name in fields}, **facts}


def check_size(outcome: Outcome, png: bytes, shape: Shape) -> None:
    """Raises ReplyTooLarge if `build` would; encodes nothing unless the picture must be compressed harder."""
    if outcome.url is None:
        _fit(_facts(outcome), png, shape)


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {"filename": outcome.filename, **outcome.random_values, "info": json.dumps(outcome.info)}


def _fit(facts: dict[str, Any], png: bytes, shape: Shape) -> tuple[bytes, tuple[str, ...]]:
    """Returns the encoding that fits, and the fields that can carry it."""
    for candidate in _encodings(png):
        for count in range(len(shape.fields), 0, -1):
            fields = shape.fields[:count]
            size_bytes = _size_bytes(facts, fields, len(candidate))
            if size_bytes <= shape.limit_bytes:
                return candidate, fields
    raise ReplyTooLarge(f"reply has {size_bytes} bytes, REPLY_LIMIT_BYTES is {shape.limit_bytes}")


def _encodings(png: bytes) -> Iterator[bytes]:
    yield png
    yield recompress(png)


def _size_bytes(facts: dict[str, Any], fields: tuple[str, ...], png_bytes: int) -> int:
    """Returns the size in bytes of the reply as JSON."""
    empty = json.dumps({"status": "success", **dict.fromkeys(fields, ""), **facts})
    encoded_bytes = 4 * -(-png_bytes // 3)
    data_urls = sum(name != "image_base64" for name in fields)
    return len(empty) + len(fields) * encoded_bytes + data_urls * len(DATA_URL)
