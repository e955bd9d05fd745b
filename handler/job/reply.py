"""The reply to a RunPod job, within the size that RunPod accepts."""

import base64
import json
from dataclasses import dataclass
from typing import Any, Self

from handler.errors import ReplyTooLarge
from handler.job import formats
from handler.job.picture import Outcome
from handler.settings import WorkerSettings

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


def build(outcome: Outcome, encoded: bytes | None, shape: Shape) -> dict[str, Any]:
    """Returns the reply: status, url, image_url, image_base64, filename, the random values, info (JSON text).

    If the picture has a URL, `url` and `image_url` are that URL and there is no base64. Otherwise the reply
    carries the picture in each of `shape.fields`: as a data URL under two names, and as bare base64. If that
    is too large, `image_url` is dropped, then `url`, then a PNG is compressed harder.

    Args:
        encoded: the picture; None if the outcome has a URL.
        shape: its maximum size, and the fields that carry the picture.

    Raises:
        ReplyTooLarge: even a single copy of the smallest encoding is too large.
    """
    facts = _facts(outcome)
    if outcome.url is not None:
        return {"status": "success", "url": outcome.url, "image_url": outcome.url, **facts}
    assert encoded is not None
    encoded, fields = _fit(outcome, encoded, shape)
    text = base64.b64encode(encoded).decode("ascii")
    data_url = _data_url(outcome) + text if fields != ("image_base64",) else ""
    pictures = {"url": data_url, "image_url": data_url, "image_base64": text}
    return {"status": "success", **{name: value for name, value in pictures.items() if name in fields}, **facts}


def check_size(outcome: Outcome, encoded: bytes, shape: Shape) -> None:
    """Raises ReplyTooLarge if `build` would; encodes nothing unless the picture must be compressed harder."""
    if outcome.url is None:
        _fit(outcome, encoded, shape)


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {"filename": outcome.filename, **outcome.random_values, "info": json.dumps(outcome.info)}


def _data_url(outcome: Outcome) -> str:
    return f"data:{formats.media_type(outcome.filename)};base64,"


def _fit(outcome: Outcome, encoded: bytes, shape: Shape) -> tuple[bytes, tuple[str, ...]]:
    """Returns the encoding that fits, and the fields that can carry it."""
    for candidate in formats.encodings(encoded):
        for count in range(len(shape.fields), 0, -1):
            fields = shape.fields[:count]
            size_bytes = _size_bytes(outcome, fields, len(candidate))
            if size_bytes <= shape.limit_bytes:
                return candidate, fields
    raise ReplyTooLarge(f"reply has {size_bytes} bytes, REPLY_LIMIT_BYTES is {shape.limit_bytes}")


def _size_bytes(outcome: Outcome, fields: tuple[str, ...], encoded_bytes: int) -> int:
    """Returns the size in bytes of the reply as JSON."""
    empty = json.dumps({"status": "success", **dict.fromkeys(fields, ""), **_facts(outcome)})
    text_bytes = 4 * -(-encoded_bytes // 3)
    data_urls = sum(name != "image_base64" for name in fields)
    return len(empty) + len(fields) * text_bytes + data_urls * len(_data_url(outcome))
