"""What /openapi.json says besides the pydantic models: examples of errors, the input's own schema, keys."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI

from handler.errors import (
    BadPicture,
    ComfyCrashed,
    ComfyUnavailable,
    InternalError,
    InvalidInput,
    JobCancelled,
    JobTimeout,
    LayerdiffuseError,
    ModelMissing,
    NodeFailed,
    NoGpu,
    NotTransparent,
    OutOfMemory,
    ReplyTooLarge,
    StorageUnavailable,
    WorkflowInvalid,
    WorkflowRejected,
)
from handler.server.error_responses import http_status
from handler.server.errors import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    ForeignOrigin,
    MethodNotAllowed,
    NotFound,
    NotJson,
    QueueFull,
    RequestTimeout,
    TooManyConnections,
    Unauthorized,
)
from handler.server.protocol import Error, RunRequest

DESCRIPTION = """Text in, truly transparent PNG out.

Two APIs to the same worker: **RunPod's job API** under `/v2/{endpoint}/`, with any name for `{endpoint}`, so that a
client written for RunPod only changes its base URL; and the **alpha API**, one request and one response.
Errors have a stable `code`; `docs/errors.md` lists them.
"""
TAGS = [
    {"name": "RunPod's job API", "description": "Jobs: submit one now, ask for its result later."},
    {"name": "alpha API", "description": "One request, one response; progress; the pictures."},
    {"name": "OpenAI's image API", "description": "For programs that use OpenAI's clients."},
    {"name": "operations", "description": "For monitoring."},
]
Docs = dict[int | str, dict[str, Any]]
JOB_INPUT = "JobInput"
COMPONENTS = "#/components/schemas/{model}"
MESSAGES: dict[type[LayerdiffuseError], str] = {
    InvalidInput: "prompt is required; seed must be an integer from 0 to 9007199254740991 or null, got true",
    JobCancelled: "client disconnected",
    JobTimeout: "the job took longer than 540 s",
    WorkflowInvalid: "txt2img_alpha.json cannot be read: No such file or directory",
    WorkflowRejected: "Alpha PNG: Required input is missing (images)",
    ModelMissing: "models/layer_model/layer_xl_transparent_attn.safetensors missing",
    NoGpu: "the profile sdxl needs a GPU: the NVIDIA driver reports no GPU; to use the CPU, set DEVICE=cpu",
    NodeFailed: "KSampler failed with ValueError: an odd number",
    OutOfMemory: "KSampler ran out of memory: ask for a smaller picture, or use a larger GPU",
    ComfyUnavailable: "ComfyUI ended while starting: exit status 1",
    ComfyCrashed: "ComfyUI ended: it was killed by SIGKILL",
    BadPicture: "PNG is 512x512, expected 1024x1024",
    NotTransparent: "picture is opaque: alpha is under 0.5 in 0.00% of its pixels, its mean is 0.98",
    ReplyTooLarge: "reply has 9900000 bytes, REPLY_LIMIT_BYTES is 9500000",
    StorageUnavailable: "the picture cannot be stored: No space left on device",
    InternalError: "internal error, see the worker log",
    BadRequest: "body must be a JSON object",
    Unauthorized: "the header Authorization must be Bearer and an API key of this server",
    ForeignOrigin: "https://other.example is not one of CORS_ORIGINS",
    NotFound: "unknown job id or expired result",
    MethodNotAllowed: "Method Not Allowed",
    Conflict: "only a FAILED or TIMED_OUT job can be retried, this one is COMPLETED",
    BodyTooLarge: "body must have at most 200000 bytes, besides pictures in base64",
    NotJson: "Content-Type must be application/json, got none",
    QueueFull: "queue is full (100 jobs)",
    RequestTimeout: "body did not arrive within 30 s",
    TooManyConnections: "too many connections, retry the request",
}
GENERAL = (BadRequest, Unauthorized, StorageUnavailable, TooManyConnections, InternalError)
CHANGING = (*GENERAL, ForeignOrigin)
SUBMITTING = (*CHANGING, BodyTooLarge, NotJson, QueueFull, RequestTimeout)


def error_docs(*kinds: type[LayerdiffuseError]) -> Docs:
    """Returns FastAPI's `responses` for these errors, each with an example."""
    docs: Docs = {}
    for kind in dict.fromkeys(kinds):
        response = docs.setdefault(
            http_status(kind), {"model": Error, "content": {"application/json": {"examples": {}}}}
        )
        examples = response["content"]["application/json"]["examples"]
        examples[kind.code] = {"value": {"error": {"code": kind.code, "message": MESSAGES[kind], "details": []}}}
        response["description"] = ", ".join(f"`{code}`" for code in examples)
    return docs


def json_body(schema: Mapping[str, Any], examples: Mapping[str, Any]) -> dict[str, Any]:
    """Returns FastAPI's `openapi_extra` for a route that reads its own body."""
    named = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": named}}}}


def install(app: FastAPI, input_schemas: Callable[[], dict[str, dict[str, Any]]]) -> None:
    """Makes the application describe a job's input with each workflow's own schema; the default comes first."""
    original = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(original(), input_schemas())
        return app.openapi_schema or {}

    app.openapi = described  # type: ignore[method-assign]


def forget(app: FastAPI) -> None:
    """Makes the application describe itself anew, after the workflow has changed."""
    app.openapi_schema = None


def _complete(description: dict[str, Any], input_schemas: dict[str, dict[str, Any]]) -> None:
    inputs = {
        f"{JOB_INPUT}_{name}" if place else JOB_INPUT: each for place, (name, each) in enumerate(input_schemas.items())
    }
    references = [{"$ref": COMPONENTS.format(model=model)} for model in inputs]
    job_input = {"anyOf": references} if len(references) > 1 else references[0]
    for route in description["paths"].values():
        for operation in route.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]  # FastAPI's own; this server responds with `bad_request`
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is not None and content["schema"] == {"type": "object"}:
                content["schema"] = job_input
            events = operation["responses"].get("200", {}).get("content", {}).get("text/event-stream", {})
            if "itemSchema" in events:  # of OpenAPI 3.2; tools for 3.1 expect each event's schema here
                events["schema"] = events.pop("itemSchema")
    envelope = RunRequest.model_json_schema(ref_template=COMPONENTS)
    envelope["properties"]["input"] = job_input
    schemas = description["components"]["schemas"]
    schemas |= {**inputs, RunRequest.__name__: envelope, **envelope.pop("$defs")}
    for name in ("HTTPValidationError", "ValidationError"):
        del schemas[name]
    description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    description["security"] = [{}, {"key": []}]
