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
    before = path.read_text() if path.exists() else generator.workflow.profile
    queued = store.queued()
    if settings.profile == "auto" and queued and before != generator.workflow.profile:
        log.warning("queued jobs keep their profile", extra={"profile": before, "queued": queued})
        generator.use(profiles.load(settings.model_copy(update={"profile": before})))
    part = path.with_suffix(".part")
    part.write_text(generator.workflow.profile)
    part.replace(path)
