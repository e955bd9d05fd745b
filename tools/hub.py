"""Writes .runpod/hub.json's `env`, with one entry for each setting that a RunPod endpoint can use, and its icon's URL.

The URL is that of .runpod/icon.png in the repository that `origin` names, if that is on GitHub.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from handler.settings import BucketSettings, WorkerSettings

ROOT = Path(__file__).resolve().parents[1]
HUB = ROOT / ".runpod" / "hub.json"
GITHUB = re.compile(r"(?:https://|ssh://git@|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?")
LABELS = {
    "workflow": "Workflow",
    "profile": "Model",
    "job_timeout_s": "Time limit for a job, in seconds",
    "start_timeout_s": "Time limit for starting ComfyUI, in seconds",
    "reply_limit_bytes": "Maximum size of a reply, in bytes",
    "reply_fields": "Picture in the reply",
    "warm_up": "First picture before the first job",
    "vram": "GPU memory",
    "attention": "Attention on the GPU",
    "alpha_check": "If a picture is not transparent",
    "embed_workflow": "Workflow and prompt in each picture",
    "fetch_images": "Input pictures by URL",
    "comfyui_args": "Additional arguments for ComfyUI",
    "log_format": "Log format",
    "log_level": "Log level",
    "bucket_endpoint_url": "Bucket: URL of the S3 service",
    "bucket_access_key_id": "Bucket: access key",
    "bucket_secret_access_key": "Bucket: secret key",
    "bucket_name": "Bucket: name",
    "bucket_region": "Bucket: region",
    "bucket_prefix": "Bucket: folder",
    "bucket_public_url": "Bucket: public URL",
    "bucket_url_lifetime_s": "Bucket: lifetime of a URL, in seconds",
    "bucket_allowed_endpoints": "Bucket: services that a job may name",
}
CHOICES = {
    "reply_fields": {"all": "In three fields", "image_base64": "Only as base64", "url": "Only as a URL"},
    "warm_up": {"auto": "Automatic", "full": "A whole picture", "fast": "One step", "off": "None"},
    "vram": {"auto": "Automatic", "full": "Keep all models on the GPU", "dynamic": "Move models when needed"},
    "attention": {"auto": "Automatic", "xformers": "xformers", "pytorch": "PyTorch"},
    "alpha_check": {"fail": "Fail the job", "retry": "Try once more", "accept": "Return it"},
    "log_format": {"text": "Text", "json": "JSON"},
    "log_level": {"DEBUG": "Debug", "INFO": "Info", "WARNING": "Warnings", "ERROR": "Errors"},
}
# What the Hub shows at once; the others are under its advanced settings.
BASIC = {
    *("alpha_check", "reply_fields", "vram"),
    *("bucket_endpoint_url", "bucket_access_key_id", "bucket_secret_access_key", "bucket_name"),
}


def main() -> None:
    """Writes the file."""
    hub = json.loads(HUB.read_text("utf-8"))
    hub["config"]["env"] = entries()
    remote = subprocess.run(  # noqa: S603
        ["git", "-C", str(ROOT), "remote", "get-url", "origin"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if url := icon_url(remote.stdout.strip()):
        hub["iconUrl"] = url
    HUB.write_text(json.dumps(hub, indent=2, ensure_ascii=False) + "\n", "utf-8")


def icon_url(remote: str) -> str | None:
    """Returns the icon's URL in the repository that git knows under this URL, or None if it is not on GitHub."""
    match = GITHUB.fullmatch(remote)
    return match and f"https://raw.githubusercontent.com/{match[1]}/HEAD/.runpod/icon.png"


def entries() -> list[dict[str, Any]]:
    """Returns the entries of hub.json, in the order of the settings."""
    properties = {
        name: schema
        for audience in (WorkerSettings, BucketSettings)
        for name, schema in audience.model_json_schema()["properties"].items()
    }
    return [{"key": name.upper(), "input": _input(name, schema)} for name, schema in properties.items()]


def _input(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type", "string")
    described = {
        "name": LABELS[name],
        "type": {"boolean": "boolean", "integer": "number", "number": "number"}.get(kind, "string"),
        "description": schema.get("description", "").strip(),
        "default": "" if schema.get("default") is None else schema["default"],
        "required": False,
        "advanced": name not in BASIC,
    }
    if choices := schema.get("enum"):
        labels = CHOICES[name]
        described |= {"type": "string", "options": [{"label": labels[choice], "value": choice} for choice in choices]}
    return described


if __name__ == "__main__":
    main()
