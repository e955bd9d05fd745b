"""`layerdiffuse-alpha worker`: the RunPod worker."""

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import typer

from handler import logs, serverless
from handler.cli import terminal
from handler.cli.terminal import EXIT_FAILED, EXIT_USAGE, fail
from handler.comfyui.child import at_parents_end
from handler.comfyui.process import ComfyProcess
from handler.errors import GenerationError
from handler.job import fitness, preparation, profiles
from handler.job.buckets import Buckets
from handler.job.generate import Generator
from handler.job.runner import Runner
from handler.server.workflow_watch import WorkflowWatch

TERMINAL_CHARACTERS = 60
JOB_SOURCES = ("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_REALTIME_PORT")

log = logging.getLogger(__name__)


def worker(context: typer.Context) -> None:
    """Takes jobs from RunPod, or one from --test_input, or serves the SDK's local API (--rp_serve_api)."""
    settings = terminal.settings()
    logs.configure(settings.log_level, settings.log_format)
    arguments = _sdk_arguments(context.args)
    is_test = arguments.test_input is not None
    if is_test:
        _check_test_input(arguments.test_input)
    elif not arguments.rp_serve_api and not any(map(os.environ.get, JOB_SOURCES)):
        fail(
            "no jobs to take: pass --test_input or --rp_serve_api; on RunPod, RUNPOD_WEBHOOK_GET_JOB is set", EXIT_USAGE
        )
    with ComfyProcess(settings) as comfyui:
        generator = Generator(profiles.load(settings), comfyui, settings)
        buckets = Buckets(settings)
        buckets.begin_check()
        reports = os.environ.get("RUNPOD_WEBHOOK_POST_OUTPUT") and not is_test
        send = serverless.send_progress if reports else None
        handle = serverless.make_handler(Runner(generator, buckets), settings, send)
        if not is_test:  # a test input may be refused, for which ComfyUI is not needed
            preparation.begin(generator)
        # By default the SDK logs each reply in full.
        os.environ.setdefault("RUNPOD_LOG_LEVEL", os.environ.get("RUNPOD_DEBUG_LEVEL", "WARN"))
        sys.argv = [sys.argv[0], *context.args]
        import runpod.serverless  # takes 2 s, during which ComfyUI starts

        runpod.serverless.parser.parse_known_args(context.args)  # a wrong argument ends the program here
        if is_test:
            results: list[dict[str, Any]] = []
            try:
                runpod.serverless.start({"handler": _printed(handle, results)})
            finally:
                # If it is interrupted, the SDK exits with 0.
                if not any(result["status"] == "COMPLETED" for result in results):
                    raise typer.Exit(EXIT_FAILED)
        leaving = serverless.LeavingWorker(handle, comfyui, lambda: fitness.check_weights(settings, generator.workflow))
        if arguments.rp_serve_api or os.environ.get("RUNPOD_REALTIME_PORT"):
            preparation.prepare(generator)  # the SDK's API starts without fitness checks
            leaving.watch()
        if arguments.rp_serve_api:  # on RunPod, the files in the image count
            watch = WorkflowWatch(
                settings.workflows_dir, lambda: profiles.reload(settings, generator.workflow), generator.use
            )
            threading.Thread(target=watch.follow, daemon=True).start()
        for name, check in preparation.fitness_checks(generator).items():
            runpod.serverless.register_fitness_check(_ends_with_its_reason(name, check, comfyui))
        runpod.serverless.register_fitness_check(leaving.watch)
        # The SDK forks a process that tells RunPod that all is well; it must not outlive this one.
        os.register_at_fork(after_in_child=at_parents_end(signal.SIGKILL))
        from handler import job_loop

        job_loop.install()
        runpod.serverless.start(leaving.config)
        if comfyui.unfit.is_set():
            fail(f"worker is not fit: {comfyui.unfit_reason}")


def _ends_with_its_reason(name: str, check: Callable[[], None], comfyui: ComfyProcess) -> Callable[[], None]:
    """Returns the check as the SDK runs it: if it fails, ComfyUI is stopped and the last log line says why.

    The SDK reports the failure to RunPod by the function's name and exits with status 1, without unwinding the stack.
    """

    def run() -> None:
        try:
            check()
        except GenerationError as exc:
            comfyui.stop()
            from runpod import RunPodLogger

            RunPodLogger().set_level("NOTSET")  # it would log two more lines
            log.critical("worker is not fit", extra={"check": name, "code": exc.code, "reason": exc.message})
            raise

    run.__name__ = name
    return run


def _sdk_arguments(arguments: list[str]) -> argparse.Namespace:
    """Returns the two arguments of the SDK that this program acts on too; the SDK parses all of them again."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--test_input")
    parser.add_argument("--rp_serve_api", action="store_true")
    return parser.parse_known_args(arguments)[0]


def _check_test_input(text: str) -> None:
    try:
        job = json.loads(text)
    except (ValueError, RecursionError) as exc:
        fail(f"--test_input is not JSON: {exc}", EXIT_USAGE)
    if not isinstance(job, dict) or job.get("input") is None:
        fail('--test_input must be an object with an "input"', EXIT_USAGE)


def _printed(handle: serverless.Handler, results: list[dict[str, Any]]) -> serverless.Handler:
    """Returns `handle` with each result also appended to `results` and printed, in the shape of RunPod's API.

    A result is one line of JSON on standard output; on a terminal, long strings are cut.
    """

    async def handle_and_print(job: serverless.RunPodJob, *_: Any) -> dict[str, Any]:
        output = await handle(job)
        error = output.get("error")
        result = {"id": job.get("id")} | (
            {"status": "FAILED", "error": error} if error else {"status": "COMPLETED", "output": output}
        )
        results.append(result)
        print(json.dumps(_for_terminal(result) if sys.stdout.isatty() else result), flush=True)  # noqa: T201
        return output

    return handle_and_print


def _for_terminal(value: Any) -> Any:
    match value:
        case dict():
            return {key: _for_terminal(entry) for key, entry in value.items()}
        case str() if value.count(" ") == 0 and len(value) > TERMINAL_CHARACTERS:
            return f"{value[:TERMINAL_CHARACTERS]}… ({len(value)} characters)"
    return value
