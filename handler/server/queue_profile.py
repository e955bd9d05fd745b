"""The profile that queued jobs were accepted with, across restarts."""

import logging

from handler.job import profiles
from handler.job.generate import Generator
from handler.server.job_store import JobStore
from handler.settings import Settings

log = logging.getLogger(__name__)


def keep(generator: Generator, store: JobStore, settings: Settings) -> None:
    """Makes queued jobs wait for their weights if PROFILE=auto has just turned to another profile for lack of them.

    Otherwise a volume that is mounted late would have SDXL's jobs drawn by the tiny model. A profile that is set, as
    PROFILE=tiny, draws all jobs.

    Raises:
        WorkflowInvalid: the earlier profile's file is missing or malformed.
    """
    path = settings.data_dir / "profile"
    before = path.read_text(errors="replace") if path.exists() else None
    queued = store.queued()
    if settings.profile == "auto" and queued and before and before != generator.workflow.profile:
        log.warning("queued jobs keep their profile", extra={"profile": before, "queued": queued})
        generator.use(profiles.load(settings.model_copy(update={"profile": before})))
    if before == generator.workflow.profile:
        return
    part = path.with_suffix(".part")
    try:
        part.write_text(generator.workflow.profile)
        part.replace(path)
    except OSError as exc:  # a full disk; finished jobs will free it
        log.warning("profile not noted", extra={"reason": exc.strerror})
