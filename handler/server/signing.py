"""Signatures of webhooks and of picture URLs, and the keys for them.

Webhooks: Standard Webhooks 1.0.0, https://www.standardwebhooks.com
"""

import base64
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from handler.errors import StorageUnavailable
from handler.settings import WEBHOOK_SECRET_PREFIX, ServerSettings

KEY_BYTES = 32
TIMESTAMP_DIGITS = 12


class WebhookSigner:
    """Signs webhooks."""

    def __init__(self, secret: str) -> None:
        """`secret`: whsec_ and the key in base64."""
        self._key = base64.b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX))

    @classmethod
    def of(cls, settings: ServerSettings) -> "WebhookSigner":
        """Signs with WEBHOOK_SECRET, or with a secret that is made once and stored; raises StorageUnavailable."""
        if settings.webhook_secret is not None:
            return cls(settings.webhook_secret.get_secret_value())
        return cls(_stored(settings.data_dir / "webhook_secret", WEBHOOK_SECRET_PREFIX))

    def headers(self, message_id: str, body: bytes, now_s: float) -> dict[str, str]:
        """Returns the headers that sign a webhook.

        Args:
            message_id: the same for each attempt to deliver it.
            body: of the request.
            now_s: the time of this attempt, in seconds since 1970.
        """
        timestamp = str(int(now_s))
        signed = b".".join((message_id.encode(), timestamp.encode(), body))
        signature = base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode("ascii")
        return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}


class UrlSigner:
    """Signs the URLs of pictures, which then work without an API key until they expire."""

    def __init__(self, key: str, lifetime_s: float, now: Callable[[], float] = time.time) -> None:
        self._key = key.encode()
        self._lifetime_s = lifetime_s
        self._now = now

    @classmethod
    def of(cls, settings: ServerSettings) -> "UrlSigner":
        """Signs with PICTURE_URL_KEY, or with a key that is made once and stored; raises StorageUnavailable."""
        own = settings.picture_url_key
        key = own.get_secret_value() if own is not None else _stored(settings.data_dir / "picture_url_key", "")
        return cls(key, settings.pictures_keep_s)

    def query(self, filename: str) -> str:
        """Returns the query that makes the picture's URL work for as long as pictures are kept."""
        expires = str(int(self._now() + self._lifetime_s))
        return urlencode({"expires": expires, "signature": self._signature(filename, expires)})

    def is_valid(self, filename: str, query: bytes) -> bool:
        """Returns whether `query` was made for this picture and has not expired."""
        fields = parse_qs(query.decode("latin-1"), max_num_fields=8) if query.count(b"&") < 8 else {}
        expires, signature = (fields.get(name, [""])[0] for name in ("expires", "signature"))
        if not (expires.isascii() and expires.isdecimal() and len(expires) <= TIMESTAMP_DIGITS):
            return False
        is_ours = hmac.compare_digest(self._signature(filename, expires).encode(), signature.encode())
        return is_ours and self._now() < int(expires)

    def _signature(self, filename: str, expires: str) -> str:
        return hmac.new(self._key, f"{filename}\n{expires}".encode(), hashlib.sha256).hexdigest()


def _stored(path: Path, prefix: str) -> str:
    """Returns the key in a file, which only this user can read; if there is none, makes one.

    Raises:
        StorageUnavailable: it can be neither read nor written.
    """
    try:
        if not path.exists():
            part = path.with_suffix(".part")
            part.unlink(missing_ok=True)
            made = prefix + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(made + "\n")
            part.replace(path)
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise StorageUnavailable(f"{path.name} in DATA_DIR cannot be used: {exc}") from exc
