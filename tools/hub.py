"""Writes the `env` of .runpod/hub.json: one entry for each setting that a RunPod endpoint can use."""

import json
from pathlib import Path
from typing import Any

from handler.settings import BucketSettings, WorkerSettings

HUB = Path(__file__).resolve().parents[1] / ".runpod" / "hub.json"


def main() -> None:
    """Writes the file."""
    hub = json.loads(HUB.read_text("utf-8"))
    hub["config"]["env"] = entries()
    HUB.write_text(json.dumps(hub, indent=2, ensure_ascii=False) + "\n", "utf-8")


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
