"""What /docs says of each route: its requests, its answers, its errors, with examples."""

from typing import Any

from fastapi import FastAPI, Response

from handler.errors import GenerationError, LayerdiffuseError, RequestRefused

DESCRIPTION = """Text in, truly transparent PNG out.

Two ways to the same worker: **RunPod's job API** under `/v2/{endpoint}/`, with any name for `{endpoint}`, so that a
client written for RunPod needs another base URL and nothing else; and the **alpha API**, one request and one answer.
Errors have a stable `code`; `docs/errors.md` lists them.
"""
JOB_ID = "5f1f0c1e-7a35-4d1b-9d0c-1a4f6f1b2c3d"
FILENAME = "alpha_1795285203_5f2a9c.png"
INPUT = {"prompt": "a red apple, high quality", "seed": 12345}
OUTPUT = {
    "status": "success",
    "url": "data:image/png;base64,iVBORw0KGgo…",
    "image_url": "data:image/png;base64,iVBORw0KGgo…",
    "image_base64": "iVBORw0KGgo…",
    "filename": FILENAME,
    "seed": 12345,
    "info": '{"prompt": "a red apple, high quality", "steps": 20, …}',
}
STATUSES = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
STATUS_SCHEMA = {"type": "string", "enum": STATUSES}
JOB = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {
        "id": {"type": "string"},
        "status": STATUS_SCHEMA,
        "delayTime": {"type": "integer", "description": "ms in the queue"},
        "executionTime": {"type": "integer", "description": "ms on the worker"},
        "output": {"type": "object", "description": "the result; of a job that runs, which step it is at"},
        "error": {"type": "string", "description": "`code: message`"},
    },
}
STARTED = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {"id": {"type": "string"}, "status": STATUS_SCHEMA},
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "string"}},
            },
        }
    },
}
ENVELOPE = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"type": "object"},  # filled by `install`
        "webhook": {"type": ["string", "null"], "format": "uri", "description": "told the result; must answer 200"},
        "policy": {
            "type": "object",
            "properties": {
                "executionTimeout": {"type": ["integer", "null"], "minimum": 1000, "maximum": 604_800_000},
                "ttl": {"type": "integer", "minimum": 1000, "maximum": 604_800_000},
            },
            "description": "limits in ms",
        },
        "s3Config": {"type": ["object", "null"], "description": "a bucket of the caller's, where the server allows it"},
    },
}


def _json(schema: dict[str, Any], description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


def _errors(*codes: str) -> dict[int | str, Any]:
    """Returns the answers for these errors, by HTTP status, each with an example."""
    found: dict[int | str, Any] = {}
    for kind in _kinds():
        if kind.code in codes:
            answer = found.setdefault(kind.http_status, {"description": "", "content": {"application/json": {}}})
            answer["description"] = ", ".join(filter(None, [answer["description"], f"`{kind.code}`"]))
            content = answer["content"]["application/json"]
            content["schema"] = ERROR
            example = {"error": {"code": kind.code, "message": MESSAGES[kind.code], "details": []}}
            content.setdefault("examples", {})[kind.code] = {"value": example}
    return found


def _kinds() -> list[type[LayerdiffuseError]]:
    return [*GenerationError.__subclasses__(), *RequestRefused.__subclasses__()]


MESSAGES = {
    "invalid_input": "prompt is required; seed must be an integer from 0 to 9007199254740991 or null, got true",
    "cancelled": "the caller has hung up",
    "timeout": "the job took longer than 540 s",
    "workflow_invalid": "txt2img_alpha.json cannot be read: No such file or directory",
    "workflow_rejected": "Alpha PNG: Required input is missing (images)",
    "model_missing": "models/layer_model/layer_xl_transparent_attn.safetensors missing",
    "no_gpu": "the profile sdxl needs a GPU: the NVIDIA driver reports no GPU; to use the CPU, set DEVICE=cpu",
    "node_failed": "KSampler: OutOfMemoryError: Allocation on device",
    "comfyui_unavailable": "ComfyUI ended while starting: exit status 1",
    "bad_picture": "PNG is 512x512, expected 1024x1024",
    "not_transparent": "picture is opaque: 100.0% of its pixels have alpha over 0.98",
    "reply_too_large": "reply has 9900000 bytes, REPLY_LIMIT_BYTES is 9500000",
    "storage_unavailable": "the picture cannot be stored: No space left on device",
    "internal": "the worker failed, its log has the reason",
    "bad_request": "body must be a JSON object",
    "unauthorized": "expected the header Authorization: Bearer with a key of this server",
    "not_found": "no job has this id, or its result is no longer kept",
    "method_not_allowed": "Method Not Allowed",
    "conflict": "only a job that is FAILED or TIMED_OUT can be retried, this one is COMPLETED",
    "body_too_large": "body must have at most 1000000 bytes",
    "unsupported_media_type": "Content-Type must be application/json, got none",
    "queue_full": "100 jobs wait already",
}
GENERAL = ("unauthorized", "storage_unavailable", "internal")
REFUSED = (*GENERAL, "bad_request", "body_too_large", "unsupported_media_type", "queue_full")
OF_A_JOB = tuple(kind.code for kind in GenerationError.__subclasses__())


def _body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    named = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": named}}}}


JOB_BODY = _body(
    ENVELOPE,
    {
        "a picture": {"input": INPUT},
        "with limits and a webhook": {
            "input": INPUT,
            "webhook": "https://example.com/pictures",
            "policy": {"executionTimeout": 60_000, "ttl": 600_000},
        },
    },
)
COMPLETED = {"id": JOB_ID, "status": "COMPLETED", "delayTime": 12, "executionTime": 3400, "output": OUTPUT}

RUN: dict[str, Any] = {
    "openapi_extra": JOB_BODY,
    "responses": {200: _json(STARTED, "accepted", {"id": JOB_ID, "status": "IN_QUEUE"}), **_errors(*REFUSED)},
}
RUNSYNC: dict[str, Any] = {
    "openapi_extra": JOB_BODY,
    "responses": {
        200: _json(JOB, "the job, over or not", {**COMPLETED, "id": f"sync-{JOB_ID}"}),
        **_errors(*REFUSED, "not_found"),
    },
}
STATUS: dict[str, Any] = {"responses": {200: _json(JOB, "the job", COMPLETED), **_errors(*GENERAL, "not_found")}}
STREAM: dict[str, Any] = {
    "responses": {
        200: _json(
            {
                "type": "object",
                "required": ["status", "stream"],
                "properties": {"status": STATUS_SCHEMA, "stream": {"type": "array", "items": {"type": "object"}}},
            },
            "what is new",
            {"status": "IN_PROGRESS", "stream": [{"output": {"step": 7, "steps": 20}}]},
        ),
        **_errors(*GENERAL, "not_found"),
    }
}
CANCEL: dict[str, Any] = {
    "responses": {
        200: _json(STARTED, "the job as it is now", {"id": JOB_ID, "status": "CANCELLED"}),
        **_errors(*GENERAL, "not_found"),
    }
}
RETRY: dict[str, Any] = {
    "responses": {
        200: _json(STARTED, "waits again", {"id": JOB_ID, "status": "IN_QUEUE"}),
        **_errors(*GENERAL, "not_found", "conflict", "queue_full"),
    }
}
PURGE: dict[str, Any] = {
    "responses": {
        200: _json(
            {
                "type": "object",
                "required": ["removed", "status"],
                "properties": {"removed": {"type": "integer"}, "status": {"type": "string"}},
            },
            "cancelled",
            {"removed": 2, "status": "completed"},
        ),
        **_errors(*GENERAL),
    }
}
HEALTH: dict[str, Any] = {
    "responses": {
        200: _json(
            {
                "type": "object",
                "required": ["jobs", "workers"],
                "properties": {"jobs": {"type": "object"}, "workers": {"type": "object"}},
            },
            "counts",
            {
                "jobs": {"completed": 1, "failed": 5, "inProgress": 0, "inQueue": 2, "retried": 0},
                "workers": {"idle": 0, "running": 1},
            },
        ),
        **_errors(*GENERAL),
    }
}
TXT2IMG: dict[str, Any] = {
    "openapi_extra": _body({"type": "object"}, {"a picture": INPUT}),
    "responses": {
        200: _json(
            {
                "type": "object",
                "required": ["url", "filename", "seed", "info"],
                "properties": {name: {"type": "string"} for name in ("url", "filename", "info")}
                | {"seed": {"type": "integer"}},
            },
            "the picture's address",
            {
                "url": f"http://127.0.0.1:8000/alpha/v1/file/{FILENAME}",
                "filename": FILENAME,
                "seed": 12345,
                "info": "{…}",
            },
        ),
        **_errors(*REFUSED, *OF_A_JOB),
    },
}
PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
FILE: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "the PNG", "content": PNG},
        206: {"description": "the part that `Range` asks for", "content": PNG},
        304: {"description": "the caller has it already (`If-None-Match`)"},
        416: {"description": "`Range` asks for what is not there"},
        **_errors(*GENERAL, "not_found"),
    },
}
PING: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "warm"},
        204: {"description": "starting"},
        503: {"description": "could not start"},
    },
}
METRICS: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **_errors(*GENERAL),
    },
}


def install(app: FastAPI, input_schema: dict[str, Any]) -> None:
    """Lets the application describe a job's input with the workflow's own schema."""
    original = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()
            for route in schema["paths"].values():
                for operation in route.values():
                    _correct(operation, input_schema)
            components = schema.setdefault("components", {})
            components.pop("schemas", None)
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{}, {"key": []}]
        return app.openapi_schema or {}

    app.openapi = described  # type: ignore[method-assign]


def _correct(operation: dict[str, Any], input_schema: dict[str, Any]) -> None:
    """Puts the input's schema in, and takes FastAPI's own validation error out: ours is `bad_request`."""
    unprocessable = operation["responses"].get("422", {})
    if "HTTPValidationError" in str(unprocessable):
        del operation["responses"]["422"]
        operation["responses"] |= {str(status): answer for status, answer in _errors("bad_request").items()}
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        schema = content["schema"]
        is_envelope = "input" in schema.get("properties", {})
        content["schema"] = (
            {**schema, "properties": {**schema["properties"], "input": input_schema}} if is_envelope else input_schema
        )
