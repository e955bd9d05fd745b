"""A finished picture as the reply that every boundary gives, within the size that RunPod takes."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import ReplyTooLarge
from handler.job.png import recompress


@dataclass(frozen=True)
class Generated:
    """A checked picture.

    Attributes:
        png: 8-bit RGBA.
        filename: `alpha_<unix seconds>_<6 hex digits>.png`.
        drawn: the random parameters of the request with the values that were used.
        info: everything known about how it was made; JSON values.
    """

    png: bytes
    filename: str
    drawn: Mapping[str, Any]
    info: Mapping[str, Any]


def build(generated: Generated, limit_bytes: int, url: str | None = None) -> dict[str, Any]:
    """Returns the reply: status, url, image_url, image_base64, filename, the drawn values, info (JSON text).

    Where the picture is in a bucket, both URLs are `url` and there is no base64. Otherwise the
    picture stands in it three times, as data URL under two names and as bare base64. When the whole
    is over `limit_bytes` of JSON, `image_url` is left out, then `url`, then the picture is compressed
    harder.

    Raises:
        ReplyTooLarge: even one copy of the smallest encoding is over the limit.
    """
    facts = {"filename": generated.filename, **generated.drawn, "info": json.dumps(generated.info)}
    if url is not None:
        return {"status": "success", "url": url, "image_url": url, **facts}
    facts_bytes = len(json.dumps({"status": "success", "url": "", "image_url": "", "image_base64": "", **facts}))
    for encode in (bytes, recompress):
        png = encode(generated.png)
        encoded = base64.b64encode(png).decode("ascii")
        data_url = f"data:image/png;base64,{encoded}"
        for copies in ({"url": data_url, "image_url": data_url}, {"url": data_url}, {}):
            pictures = {**copies, "image_base64": encoded}
            size_bytes = facts_bytes + sum(map(len, pictures.values()))
            if size_bytes <= limit_bytes:
                return {"status": "success", **pictures, **facts}
    raise ReplyTooLarge(f"reply has {size_bytes} bytes, REPLY_LIMIT_BYTES is {limit_bytes}")
