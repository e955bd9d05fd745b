"""The RunPod boundary: jobs of the SDK's loop in, replies out. Translates, never decides."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from handler.comfyui.client import OnProgress
from handler.deadline import Deadline
from handler.errors import GenerationError
from handler.job import reply
from handler.job.runner import Job, Worker
from handler.settings import Settings

TERMINAL_CHARACTERS = 60

Handler = Callable[[Job], Coroutine[Any, Any, dict[str, Any]]]


def make_handler(worker: Worker, settings: Settings, on_progress: OnProgress | None = None) -> Handler:
    """Returns the handler for `runpod.serverless.start`.

    It answers with the reply of handler.reply, or with `{"error": "code: message"}`. It raises only
    asyncio.CancelledError, by which the SDK ends a cancelled or timed out job; the run is taken off
    ComfyUI before.
    """

    def deliver(generated: reply.Generated, url: str | None) -> dict[str, Any]:
        return reply.build(generated, settings.reply_limit_bytes, url)

    def answer(job: Job, deadline: Deadline) -> dict[str, Any]:
        result = worker.run(job, deadline, deliver, on_progress)
        return {"error": str(result)} if isinstance(result, GenerationError) else result

    async def handle(job: Job) -> dict[str, Any]:
        deadline = Deadline(settings.job_timeout_s)
        work = asyncio.create_task(asyncio.to_thread(answer, job, deadline))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            deadline.cancel()
            await asyncio.wait([work])
            raise

    return handle


def printed(handle: Handler, results: list[dict[str, Any]]) -> Handler:
    """Returns `handle` with each result also appended to `results` and printed, in the shape of RunPod's API.

    One line of JSON on standard output; on a terminal, long texts are cut.
    """

    async def handle_and_print(job: Job) -> dict[str, Any]:
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
