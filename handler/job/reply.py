"""The reply to a RunPod job, within the size that RunPod accepts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import pybase64

from handler.errors import ReplyTooLarge
from handler.job import formats
from handler.job.picture import MissingPicture, Outcome, PictureFacts
from handler.settings import WorkerSettings

# The fields that carry the first picture. When they do not fit, the ones at the end are dropped first.
COPIES = ("image_base64", "url", "image_url")
# Of a PNG, to tell before drawing how many fit. Measured: 0.3 for simple pictures, up to 2.3 for photographs.
TYPICAL_BYTES_PER_PIXEL = 1.5


@dataclass(frozen=True)
class Shape:
    """What a reply may be.

    Attributes:
        limit_bytes: maximum size as JSON.
        fields: those that carry the first picture.
    """

    limit_bytes: int
    fields: tuple[str, ...] = COPIES

    @classmethod
    def of(cls, settings: WorkerSettings) -> Self:
        """Returns the shape that the settings ask for."""
        chosen = settings.reply_fields
        return cls(settings.reply_limit_bytes, COPIES if chosen == "all" else (chosen,))


def build(outcome: Outcome, encoded: Sequence[bytes | None], shape: Shape) -> dict[str, Any]:
    """Returns the reply: status, url, image_url, image_base64, filename, the random values, info (JSON text).

    These fields are about the first picture. If it has a URL, `url` and `image_url` are that URL and there is no
    base64. Otherwise the reply carries the picture in each of `shape.fields`: as a data URL under two names, and as
    bare base64. If the request set the number of pictures, `images` lists all of them, each with `url` or
    `image_base64`, and `missing` those that could not be made, if any.

    If the reply is too large, `image_url` is dropped, then `url`, then `image_base64` if `images` has the picture,
    too; then PNGs are compressed harder; then the last pictures are moved to `missing`.

    Args:
        outcome: how the job ended.
        encoded: its pictures; None for one that has a URL.
        shape: the maximum size, and the fields that carry the first picture.

    Raises:
        ReplyTooLarge: even a single copy of the smallest encoding of the first picture is too large.
    """
    fitting, contents, fields = _fit(outcome, encoded, shape)
    return _reply(fitting, [_base64(content) for content in contents], fields)


def check_size(outcome: Outcome, encoded: Sequence[bytes | None], shape: Shape) -> None:
    """Raises ReplyTooLarge if `build` would; encodes nothing unless pictures must be compressed harder."""
    _fit(outcome, encoded, shape)


def most_pictures(width: int, height: int, shape: Shape) -> int:
    """Returns how many pictures of this size, in pixels, will probably fit into a reply; at least one."""
    text_bytes = width * height * TYPICAL_BYTES_PER_PIXEL * 4 / 3
    return max(1, int(shape.limit_bytes / text_bytes))


def picture_entry(picture: PictureFacts) -> dict[str, Any]:
    """Returns what `images` says about a picture, without its URL or base64."""
    file = picture.info["picture"]
    size = {"width": file["width"], "height": file["height"]}
    return {"filename": picture.filename, **picture.random_values, **size, "alpha": picture.info["alpha"]}


def missing_entry(missing: MissingPicture) -> dict[str, Any]:
    """Returns what `missing` says about a picture."""
    return {**missing.random_values, "error": missing.error}


def _reply(outcome: Outcome, texts: Sequence[str | None], fields: tuple[str, ...]) -> dict[str, Any]:
    """Returns the reply; `texts` are the pictures in base64, None for those that have a URL."""
    first, text = outcome.first, texts[0]
    built: dict[str, Any] = {"status": "success"}
    if text is None:
        built |= {"url": first.url, "image_url": first.url}
    else:
        data_url = f"data:{formats.media_type(first.filename)};base64,{text}" if fields != ("image_base64",) else ""
        copies = {"url": data_url, "image_url": data_url, "image_base64": text}
        built |= {name: value for name, value in copies.items() if name in fields}
    built |= {"filename": first.filename, **first.random_values, "info": json.dumps(first.info)}
    if outcome.is_list:
        places = [
            {"url": picture.url} if found is None else {"image_base64": found}
            for picture, found in zip(outcome.pictures, texts, strict=True)
        ]
        entries = [place | picture_entry(each) for place, each in zip(places, outcome.pictures, strict=True)]
        built |= {"images": entries}
    if outcome.missing:
        built |= {"missing": [missing_entry(missing) for missing in outcome.missing]}
    return built


def _fit(
    outcome: Outcome, encoded: Sequence[bytes | None], shape: Shape
) -> tuple[Outcome, Sequence[bytes | None], tuple[str, ...]]:
    """Returns what of the outcome fits, in which encoding, and the fields that can carry the first picture."""
    least = 0 if outcome.is_list else 1
    harder: list[bytes | None] = []
    for count in range(len(encoded), 0, -1):
        kept = _shortened(outcome, count)
        for contents in (encoded, harder):
            if contents is harder and not harder:
                harder += [None if content is None else formats.smallest(content) for content in encoded]
            for copies in range(len(shape.fields), least - 1, -1):
                fields = shape.fields[:copies]
                size_bytes = _size_bytes(kept, contents[:count], fields)
                if size_bytes <= shape.limit_bytes:
                    return kept, contents[:count], fields
    raise ReplyTooLarge(f"reply has {size_bytes} bytes, REPLY_LIMIT_BYTES is {shape.limit_bytes}")


def _shortened(outcome: Outcome, count: int) -> Outcome:
    """Returns the outcome with its first pictures only; the others are missing."""
    if count == len(outcome.pictures):
        return outcome
    error = str(ReplyTooLarge("the pictures before it fill the reply"))
    moved = [MissingPicture(picture.random_values, error) for picture in outcome.pictures[count:]]
    return replace(outcome, pictures=outcome.pictures[:count], missing=(*moved, *outcome.missing))


def _size_bytes(outcome: Outcome, encoded: Sequence[bytes | None], fields: tuple[str, ...]) -> int:
    """Returns the size in bytes of the reply as JSON."""
    without_text = json.dumps(_reply(outcome, [None if content is None else "" for content in encoded], fields))
    text_bytes = [0 if content is None else 4 * -(-len(content) // 3) for content in encoded]
    return len(without_text) + len(fields) * text_bytes[0] + outcome.is_list * sum(text_bytes)


def _base64(content: bytes | None) -> str | None:
    return None if content is None else pybase64.b64encode_as_string(content)
