"""The weights part of `verify`: size and hash of every file, compared with models.txt."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from handler.cli.checks import Finding, Severity
from handler.settings import Settings
from handler.weights import locate, manifest
from handler.weights.manifest import Entry
from handler.workflow.workflow import ModelFile, Workflow

OnBytes = Callable[[str, int, int], None]
"""Called with a file's name, the bytes read so far and its size."""


@dataclass(frozen=True)
class Weight:
    """A weight file as it is on this machine.

    Attributes:
        is_listed: whether models.txt lists it.
    """

    path: str
    size_bytes: int
    sha256: str
    is_listed: bool


def check(workflow: Workflow, settings: Settings, on_bytes: OnBytes) -> Iterator[tuple[Finding, Weight | None]]:
    """Yields a finding for each file that the workflow needs, and for each other listed file that is here.

    Raises:
        BadList: models.txt cannot be used.
    """
    listed = {entry.file: entry for entry in manifest.read(settings.models_file)}
    extra = [file for file in listed if file not in workflow.models and locate.find(file, settings)]
    for file in [*workflow.models, *extra]:
        yield _check(file, listed.get(file), settings, on_bytes)


def _check(
    file: ModelFile, entry: Entry | None, settings: Settings, on_bytes: OnBytes
) -> tuple[Finding, Weight | None]:
    found = locate.find(file, settings)
    if found is None:
        remedy = "run `layerdiffuse-alpha models fetch`" if entry else "restore it: git checkout models"
        return Finding(Severity.WRONG, str(file), "missing", remedy), None
    try:
        size_bytes = found.path.stat().st_size
        with found.path.open("rb") as opened:
            digest, _ = manifest.digest_of(opened, lambda done: on_bytes(file.name, done, size_bytes))
    except OSError as exc:
        return Finding(
            Severity.WRONG, str(file), f"cannot be read: {exc.strerror}", "check the file's permissions"
        ), None
    weight = Weight(str(file), size_bytes, digest.hexdigest(), entry is not None)
    return _judged(weight, entry), weight


def _judged(weight: Weight, entry: Entry | None) -> Finding:
    size = f"{weight.size_bytes:,} bytes"
    if entry is None:
        return Finding(Severity.OK, weight.path, f"{size}, not in models.txt, so there is no hash to compare with")
    if weight.sha256 != entry.sha256:
        fact = f"{size}, sha256 {weight.sha256}, but models.txt says {entry.sha256}"
        remedy = "delete it and run `layerdiffuse-alpha models fetch`; if it is the official file, report the hash"
        return Finding(Severity.WRONG, weight.path, fact, remedy)
    if entry.is_rough:
        fact = f"{size}, sha256 as in models.txt; its size there is an estimate, about {entry.size_bytes:,}"
        return Finding(Severity.OK, weight.path, fact)
    return Finding(Severity.OK, weight.path, f"{size}, size and sha256 as in models.txt")
