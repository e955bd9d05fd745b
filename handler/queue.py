"""The RunPod boundary: jobs of the SDK's loop in, replies out. Translates, never decides."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from handler import reply
from handler.comfy import OnProgress
from handler.deadline import Deadline
from handler.errors import GenerationError, InternalError, InvalidInput
from handler.generate import Generator
from handler.settings import Settings
from handler.storage import Bucket, Buckets, BucketUnavailable

TERMINAL_CHARACTERS = 60

Job = Mapping[str, Any]
Handler = Callable[[Job], Coroutine[Any, Any, dict[str, Any]]]

log = logging.getLogger(__name__)


def make_handler(
    generator: Generator, settings: Settings, on_progress: OnProgress | None = None, buckets: Buckets | None = None
) -> Handler:
    """Returns the handler for `runpod.serverless.start`.

    Pictures go to a bucket where `buckets` knows one for the job; should that fail, the reply carries
    the picture itself.

    It answers with the reply of handler.reply, or with `{"error": "code: message"}`. It raises only
    asyncio.CancelledError, by which the SDK ends a cancelled or timed out job; the run is taken off
    ComfyUI before.
    """

    def answer(job: Job, deadline: Deadline) -> dict[str, Any]:
        job_id = job.get("id")
        try:
            bucket = buckets.of_job(job.get("s3Config")) if buckets is not None else None
            generated = generator.generate(job.get("input"), deadline, on_progress)
            url = _stored(bucket, generated, job_id) if bucket is not None else None
            result = reply.build(generated, settings.reply_limit_bytes, url)
        except InvalidInput as exc:  # its message may quote the prompt
            log.warning("job refused", extra={"job_id": job_id, "code": exc.code})
            log.debug("why it was refused", extra={"job_id": job_id, "reason": exc.message})
            return {"error": str(exc)}
        except GenerationError as exc:
            facts = {"job_id": job_id, "code": exc.code, "reason": exc.message}
            log.warning("job failed", extra=facts, exc_info=exc.__cause__)
            return {"error": str(exc)}
        except Exception:
            log.exception("job failed", extra={"job_id": job_id, "code": InternalError.code})
            return {"error": str(InternalError("the worker failed, its log has the reason"))}
        log.info("job finished", extra={"job_id": job_id, "seconds": generated.info["seconds"]["total"]})
        return result

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


def _stored(bucket: Bucket, generated: reply.Generated, job_id: object) -> str | None:
    """Returns the picture's URL, or None where the bucket does not take it: the picture is not lost for that."""
    try:
        return bucket.put(generated.filename, generated.png)
    except BucketUnavailable as exc:
        log.error("picture not stored", extra={"job_id": job_id, "reason": str(exc)})  # noqa: TRY400
        return None


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
