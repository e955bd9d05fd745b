#!/usr/bin/env python3
"""Records what the real ComfyUI answers to some graphs, as tests/handler/comfyui/transcripts/<case>.json.

Run it after changing ComfyUI's version: `.venv/bin/python tools/record_transcripts.py`, then look at the
diff. Frames are stored as they arrived, with their time. The path of this folder is replaced.
"""

import base64
import copy
import json
import sys
import time
import uuid
from pathlib import Path

import requests
import websocket

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from handler.comfyui.process import ComfyProcess  # noqa: E402
from handler.deadline import Deadline  # noqa: E402
from handler.job.profiles import load  # noqa: E402
from handler.settings import Settings  # noqa: E402

FOLDER = ROOT / "tests" / "handler" / "comfyui" / "transcripts"
ANYWHERE = "/srv/layerdiffuse-alpha"
REQUEST = {"prompt": "a red apple", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 3}


def main() -> None:
    settings = Settings(profile="tiny", device="cpu")
    workflow = load(settings)
    graph = workflow.render(REQUEST)
    comfyui = ComfyProcess(settings)
    try:
        client = comfyui.client(Deadline(120))
        for name, changed in cases(graph).items():
            recorded = record(client._address, changed, workflow.output_node, interrupt=name == "interrupted")
            recorded = {"comfyui": client.versions["comfyui"], **recorded}
            text = json.dumps(recorded, indent=1).replace(str(ROOT), ANYWHERE)
            (FOLDER / f"{name}.json").write_text(text + "\n", "utf-8")
            print(f"{name}: HTTP {recorded['status']}, {len(recorded['frames'])} frames")
    finally:
        comfyui.stop()


def cases(graph):
    def changed(**inputs):
        other = copy.deepcopy(graph)
        for place, value in inputs.items():
            node, _, name = place.removeprefix("_").partition("_")
            other[node]["inputs"][name] = value
        return other

    unknown_class = copy.deepcopy(graph)
    unknown_class["2"]["class_type"] = "NoSuchNode"
    missing_input = copy.deepcopy(graph)
    del missing_input["6"]["inputs"]["cfg"]
    partly_valid = copy.deepcopy(graph)
    partly_valid["10"] = {"class_type": "SaveAlphaImageWebsocket", "inputs": {}}
    no_output = copy.deepcopy(graph)
    del no_output["9"]
    return {
        "success": copy.deepcopy(graph),
        "cached": copy.deepcopy(graph),
        "node_error": changed(_9_images=["7", 0]),
        "interrupted": changed(_6_steps=1000),
        "unknown_class": unknown_class,
        "missing_input": missing_input,
        "value_not_in_list": changed(_1_ckpt_name="absent.safetensors"),
        "value_too_big": changed(_5_width=10**9),
        "partly_valid": partly_valid,
        "no_output": no_output,
    }


def record(address, graph, output_node, interrupt):
    client_id, prompt_id = uuid.uuid4().hex, str(uuid.uuid4())
    socket = websocket.create_connection(f"ws://{address}/ws?clientId={client_id}", timeout=60)
    started_s = time.monotonic()
    body = {"prompt": graph, "client_id": client_id, "prompt_id": prompt_id}
    answer = requests.post(f"http://{address}/prompt", json=body, timeout=60)
    frames = []
    if answer.ok:
        frames = list(follow(socket, prompt_id, started_s, address, interrupt))
    history = requests.get(f"http://{address}/history/{prompt_id}", timeout=60).json()
    socket.close()
    return {
        "prompt_id": prompt_id,
        "output_node": output_node,
        "status": answer.status_code,
        "answer": answer.json(),
        "frames": frames,
        "history": {key: {k: v for k, v in entry.items() if k != "prompt"} for key, entry in history.items()},
    }


def follow(socket, prompt_id, started_s, address, interrupt):
    """Yields the frames of one run; if `interrupt` is set, interrupts it at the first `progress` message."""
    over = False
    while not over:
        opcode, payload = socket.recv_data()
        at_s = round(time.monotonic() - started_s, 4)
        if opcode == websocket.ABNF.OPCODE_BINARY:
            yield {"at_s": at_s, "binary": base64.b64encode(payload).decode()}
            continue
        yield {"at_s": at_s, "text": payload.decode()}
        message = json.loads(payload)
        if interrupt and message["type"] == "progress":
            interrupt = False
            requests.post(f"http://{address}/interrupt", json={"prompt_id": prompt_id}, timeout=60)
        data = message["data"]
        over = message["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id


if __name__ == "__main__":
    main()
