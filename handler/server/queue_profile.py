"""The profile of queued jobs, across restarts."""

import logging

from handler.job import profiles
from handler.job.generate import Generator
from handler.job.profiles import FALLBACK_PROFILE
from handler.server.job_store import JobStore
from handler.settings import Settings

log = logging.getLogger(__name__)


def keep(generator: Generator, store: JobStore, settings: Settings) -> None:
    """Makes queued jobs wait for their weights if PROFILE=auto has just turned to the tiny model for lack of them.

    Otherwise it would draw the jobs of SDXL if a volume is mounted late. A profile that is set, as PROFILE=tiny, draws
    all jobs.

    Raises:
        WorkflowInvalid: the earlier profile's file is missing or malformed.
    """
    path = settings.data_dir / "profile"
    before = path.read_text(errors="replace") if path.exists() else None
    queued = store.queued()
    has_turned = before not in {None, generator.workflow.profile} and generator.workflow.profile == FALLBACK_PROFILE
    if settings.profile == "auto" and has_turned and queued:
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
