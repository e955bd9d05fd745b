"""The RunPod boundary: jobs from the SDK's loop in, replies out. Translates, decides nothing."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from handler.comfyui.client import OnProgress
from handler.deadline import Deadline
from handler.errors import GenerationError
from handler.job import reply
from handler.job.runner import Job, Runner, reported
from handler.settings import Settings

TERMINAL_CHARACTERS = 60

RunPodJob = Mapping[str, Any]
Handler = Callable[[RunPodJob], Coroutine[Any, Any, dict[str, Any]]]


def make_handler(runner: Runner, settings: Settings, on_progress: OnProgress | None = None) -> Handler:
    """Returns the handler for `runpod.serverless.start`.

    The handler returns the reply of handler.job.reply, or `{"error": "code: message"}`. It raises only
    asyncio.CancelledError, with which the SDK ends a cancelled or timed-out job; by then the run has been
    removed from ComfyUI.
    """

    def run(job: RunPodJob, deadline: Deadline) -> dict[str, Any]:
        job_id = str(job.get("id"))
        try:
            with reported(job_id):
                own_job = Job(job_id, runner.parse(job.get("input")), job.get("s3Config"))
                picture, outcome = runner.run(own_job, deadline, on_progress)
                return reply.build(outcome, picture.png, settings.reply_limit_bytes)
        except GenerationError as exc:
            return {"error": str(exc)}

    async def handle(job: RunPodJob) -> dict[str, Any]:
        deadline = Deadline(settings.job_timeout_s)
        work = asyncio.create_task(asyncio.to_thread(run, job, deadline))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            deadline.cancel()
            await asyncio.wait([work])
            raise

    return handle


def printed(handle: Handler, results: list[dict[str, Any]]) -> Handler:
    """Returns `handle` with each result also appended to `results` and printed, in the shape of RunPod's API.

    A result is one line of JSON on standard output; on a terminal, long strings are cut.
    """

    async def handle_and_print(job: RunPodJob) -> dict[str, Any]:
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
