"""A server that restarts with PROFILE=auto while SDXL's weights are away, as if a volume were mounted late."""

import contextlib

import pytest

from handler.comfyui.process import ComfyProcess
from handler.job import profiles
from handler.job.generate import Generator
from handler.server import queue_profile
from handler.server.job_record import JobRequest
from handler.server.job_store import JobStore
from handler.settings import Settings

PATCH = "layer_model/layer_xl_transparent_attn.safetensors"


@pytest.fixture
def start(tmp_path):
    """Starts and stops a server: `start(PROFILE)` returns its profile; with `queues`, a job is queued meanwhile."""
    models = tmp_path / "models"
    for profile in ("tiny", "sdxl"):
        for file in profiles.read(Settings(profile=profile)).models:
            path = models / file.folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def start(profile="auto", *, queues=False):
        settings = Settings(profile=profile, models_dir=models, data_dir=tmp_path)
        generator = Generator(profiles.load(settings), ComfyProcess(settings), settings)
        with contextlib.closing(JobStore(tmp_path / "jobs.sqlite3", queue_limit=5)) as store:
            queue_profile.keep(generator, store, settings)
            if queues:
                store.add("a", JobRequest({"prompt": "an apple"}), keep_s=60)
        return generator.workflow.profile

    return start


def test_queued_jobs_wait_for_sdxl_s_weights(start, tmp_path):
    """The server still needs SDXL's files if a job is queued, also at its second start; PROFILE=tiny gives them up."""
    assert start(queues=True) == "sdxl"
    (tmp_path / "models" / PATCH).unlink()
    assert start() == "sdxl"
    assert start() == "sdxl"
    assert start("tiny") == "tiny"


def test_without_queued_jobs_the_tiny_model_takes_over(start, tmp_path):
    """Nothing waits, so PROFILE=auto chooses by the files that are there."""
    assert start() == "sdxl"
    (tmp_path / "models" / PATCH).unlink()
    assert start() == "tiny"


def test_sdxl_takes_over_when_its_weights_arrive(start, tmp_path):
    """Jobs that were queued for the tiny model do not keep SDXL from being used after `models fetch`."""
    (tmp_path / "models" / PATCH).unlink()
    assert start(queues=True) == "tiny"
    (tmp_path / "models" / PATCH).touch()
    assert start() == "sdxl"


def test_a_full_disk_does_not_keep_the_server_from_starting(start, tmp_path):
    """The profile cannot be noted, here because a folder is in the way."""
    (tmp_path / "profile.part").mkdir()
    assert start() == "sdxl"
