"""The one answer to "is this weight file here?": models folder, then volumes, then a cache of the Hugging Face hub.

What this user cannot read counts as missing; a warning names it, once.
"""

import errno
import functools
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from handler.settings import WeightSettings
from handler.weights import manifest
from handler.weights.manifest import HUB
from handler.workflow.workflow import ModelFile

log = logging.getLogger(__name__)

OWN_LACK = (errno.EMFILE, errno.ENFILE)  # of file descriptors: it says nothing about the file
HUB_URL = re.compile(re.escape(HUB) + r"/([^/]+)/([^/]+)/resolve/([0-9a-f]{40})/(.+)")


@dataclass(frozen=True)
class Found:
    """A weight file that is here.

    Attributes:
        folder: the models folder, the volume or the cache that has it.
    """

    path: Path
    folder: Path


def find(file: ModelFile, settings: WeightSettings) -> Found | None:
    """Returns the weight file that ComfyUI loads under this name, or None if it is missing."""
    for folder in (settings.models_dir, *volumes(settings)):
        path = folder / file.folder / file.name
        if is_readable(path):
            return Found(path, folder)
    in_cache = cached(settings).get(PurePosixPath(file.folder, file.name))
    return Found(in_cache, settings.hf_cache_dir) if in_cache else None


def missing(files: Iterable[ModelFile], settings: WeightSettings) -> list[ModelFile]:
    """Returns the weight files that are not here."""
    return [file for file in files if find(file, settings) is None]


def volumes(settings: WeightSettings) -> list[Path]:
    """Returns the folders of WEIGHTS_DIRS that exist and can be read."""
    folders = [Path(part) for part in settings.weights_dirs.split(":") if part]
    return [folder for folder in folders if _is_dir(folder)]


def cached(settings: WeightSettings) -> dict[PurePosixPath, Path]:
    """Returns the listed files that are in the hub's cache, by their path relative to the models folder.

    The cache has the layout of huggingface_hub: `models--<owner>--<name>/snapshots/<revision>/<file>`, a link to
    `blobs/<sha256>`. If the cache has another revision, the same bytes are found there by their hash.
    """
    if not _is_dir(settings.hf_cache_dir):
        return {}
    try:
        entries = manifest.read(settings.models_file)
    except manifest.BadList:  # `models list` reports it
        return {}
    found = {}
    for entry in entries:
        for match in filter(None, map(HUB_URL.fullmatch, entry.urls)):
            owner, name, revision, file = match.groups()
            repository = settings.hf_cache_dir / f"models--{owner}--{name}"
            for path in (repository / "snapshots" / revision / file, repository / "blobs" / entry.sha256):
                if entry.path not in found and is_readable(path):
                    found[entry.path] = path
    return found


def is_readable(path: Path) -> bool:
    """Returns whether the file is there and can be read."""
    try:
        if not path.is_file():
            return False
        path.open("rb").close()  # unlike os.access(), the truth on network volumes
    except OSError as exc:
        if exc.errno in OWN_LACK:
            return True
        _warn(path, exc.strerror)
        return False
    return True


def _is_dir(path: Path) -> bool:
    try:
        if not path.is_dir():
            return False
        os.scandir(path).close()
        (path / "..").stat()  # needs the right to enter the folder
    except OSError as exc:
        if exc.errno in OWN_LACK:
            return True
        _warn(path, exc.strerror)
        return False
    return True


@functools.lru_cache(maxsize=100)
def _warn(path: Path, reason: str) -> None:
    """Logs once that a file or folder is there but cannot be used."""
    log.warning("weights cannot be read", extra={"path": str(path), "reason": reason})
