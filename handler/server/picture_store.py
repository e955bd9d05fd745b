"""The local folder of finished pictures."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from handler.errors import StorageUnavailable
from handler.server.clock import steady

NAME = re.compile(r"alpha_[0-9]{1,12}_[0-9a-f]{6}\.(?:png|webp)")


@dataclass(frozen=True)
class Found:
    """A picture's file, with its size and times."""

    path: Path
    stat: os.stat_result


class PictureStore:
    """Stores pictures under the names that the worker gave them. Safe to use from several threads."""

    def __init__(self, folder: Path, now: Callable[[], float] | None = None) -> None:
        """Creates the folder if it does not exist; raises StorageUnavailable if it cannot."""
        self._folder = folder
        self._now = now or steady()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageUnavailable(f"the folder of pictures cannot be created: {exc.strerror}") from exc

    def put(self, filename: str, encoded: bytes) -> None:
        """Stores a picture completely or not at all.

        Raises:
            StorageUnavailable: it cannot be written.
        """
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as part:
                try:
                    part.write(encoded)
                    part.flush()
                    os.utime(part.fileno(), (self._now(), self._now()))  # `expire` goes by the same clock
                    os.fsync(part.fileno())
                    Path(part.name).replace(self._folder / filename)
                except BaseException:
                    Path(part.name).unlink(missing_ok=True)
                    raise
        except OSError as exc:
            raise StorageUnavailable(f"the picture cannot be stored: {exc.strerror}") from exc

    def find(self, filename: str) -> Found | None:
        """Returns the picture's file, or None if there is none, or if the worker does not make such names."""
        if not NAME.fullmatch(filename):
            return None
        path = self._folder / filename
        try:
            return Found(path, path.stat())
        except OSError:
            return None

    def read(self, filename: str) -> bytes | None:
        """Returns the picture, encoded, or None if `find` does."""
        found = self.find(filename)
        try:
            return found.path.read_bytes() if found else None
        except FileNotFoundError:
            return None

    def delete(self, filename: str) -> None:
        """Deletes a picture if it exists."""
        (self._folder / filename).unlink(missing_ok=True)

    def delete_since(self, moment_s: float, but: Collection[str]) -> None:
        """Deletes the pictures that were written after this moment, except for those of the given names."""
        for path in self._folder.iterdir():
            if NAME.fullmatch(path.name) and path.name not in but and path.stat().st_mtime > moment_s:
                path.unlink(missing_ok=True)

    def expire(self, keep_s: float, limit_bytes: int) -> None:
        """Deletes pictures older than `keep_s`, and the oldest ones while their total size exceeds `limit_bytes`.

        Also deletes what a killed program left half-written. Other files stay.
        """
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if NAME.fullmatch(path.name) or path.suffix == ".part":
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        total_bytes = 0
        for written_s, size_bytes, path in sorted(found, reverse=True):
            total_bytes += size_bytes
            if total_bytes > limit_bytes or written_s + keep_s < self._now():
                path.unlink(missing_ok=True)
