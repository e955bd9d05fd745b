"""The `env` of .runpod/hub.json: one entry for each setting that makes sense at RunPod."""

import json
from pathlib import Path
from typing import Any

from handler.settings import Settings

HUB = Path(__file__).resolve().parents[1] / ".runpod" / "hub.json"
ELSEWHERE = (  # of the image's own folders, or of the HTTP server alone
    *("comfyui_dir", "models_dir", "weights_dirs", "hf_cache_dir", "models_file", "workflows_dir", "device"),
    *("listen_host", "port", "api_keys", "allow_without_keys", "public_url", "data_dir", "queue_limit"),
    *("results_keep_s", "results_limit_bytes", "pictures_keep_s", "pictures_limit_bytes"),
    *("hf_token", "hf_endpoint"),
)


def main() -> None:
    """Writes the file."""
    hub = json.loads(HUB.read_text("utf-8"))
    hub["config"]["env"] = entries()
    HUB.write_text(json.dumps(hub, indent=2, ensure_ascii=False) + "\n", "utf-8")


def entries() -> list[dict[str, Any]]:
    """Returns what hub.json must have, in the order of the settings."""
    schema = Settings.model_json_schema()["properties"]
    return [{"key": name.upper(), "input": _input(name, schema[name])} for name in schema if name not in ELSEWHERE]


def _input(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type", "string")
    described = {
        "name": name.replace("_", " ").capitalize(),
        "type": {"boolean": "boolean", "integer": "number", "number": "number"}.get(kind, "string"),
        "description": schema.get("description", "").strip(),
        "default": "" if schema.get("default") is None else schema["default"],
        "required": False,
        "advanced": True,
    }
    choices = schema.get("enum")
    if choices:
        described |= {"type": "string", "options": [{"label": choice, "value": choice} for choice in choices]}
    return described


if __name__ == "__main__":
    main()
