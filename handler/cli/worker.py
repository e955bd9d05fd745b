"""`layerdiffuse-alpha worker`: the RunPod worker."""

import json
import logging
import os
import sys
from typing import Any

import typer

from handler import logs, serverless
from handler.cli import terminal
from handler.cli.terminal import EXIT_FAILED, EXIT_USAGE, fail
from handler.comfyui.process import ComfyProcess
from handler.errors import GenerationError
from handler.job import profiles
from handler.job.bucket import Buckets
from handler.job.generate import Generator
from handler.job.runner import Runner

JOB_SOURCES = ("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_REALTIME_PORT")

log = logging.getLogger(__name__)


def worker(context: typer.Context) -> None:
    """Takes jobs from RunPod, or one from --test_input, or serves the SDK's local API (--rp_serve_api)."""
    settings = terminal.settings()
    logs.configure(settings.log_level)
    # By default the SDK logs each reply in full.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", os.environ.get("RUNPOD_DEBUG_LEVEL", "WARN"))
    import runpod.serverless  # takes 2 s, which other commands need not spend

    sdk_arguments, _ = runpod.serverless.parser.parse_known_args(context.args)
    is_test = sdk_arguments.test_input is not None
    if is_test:
        _check_test_input(sdk_arguments.test_input)
    elif not sdk_arguments.rp_serve_api and not any(map(os.environ.get, JOB_SOURCES)):
        fail(
            "no jobs to take: pass --test_input or --rp_serve_api; on RunPod, RUNPOD_WEBHOOK_GET_JOB is set", EXIT_USAGE
        )
    sys.argv = [sys.argv[0], *context.args]
    with ComfyProcess(settings) as comfyui:
        generator = Generator(profiles.load(settings), comfyui, settings)
        handle = serverless.make_handler(Runner(generator, Buckets(settings)), settings)
        if is_test:
            results: list[dict[str, Any]] = []
            try:
                runpod.serverless.start({"handler": serverless.printed(handle, results)})
            finally:
                # If it is interrupted, the SDK exits with 0.
                if not any(result["status"] == "COMPLETED" for result in results):
                    raise typer.Exit(EXIT_FAILED)
        try:
            generator.prepare()
        except GenerationError as exc:  # the jobs will fail with the same reason
            log.error("not ready for jobs", extra={"code": exc.code, "reason": exc.message})  # noqa: TRY400
        runpod.serverless.start({"handler": handle})


def _check_test_input(text: str) -> None:
    try:
        job = json.loads(text)
    except (ValueError, RecursionError) as exc:
        fail(f"--test_input is not JSON: {exc}", EXIT_USAGE)
    if not isinstance(job, dict) or job.get("input") is None:
        fail('--test_input must be an object with an "input"', EXIT_USAGE)
