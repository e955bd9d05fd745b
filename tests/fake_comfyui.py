"""A main.py for COMFYUI_DIR that speaks ComfyUI's recorded protocol and fails as `plan.json` next to it says.

Each start and each graph takes the first entry of its list in the plan off, and does what it says:

    starts: "" or "die" (ends with a traceback), "hang" (never answers)
    graphs: "" or "die before" (killed instead of accepting), "die" (killed at the first step), "stop" (SIGSTOP
        instead of accepting), "hang" (SIGSTOP at the first step), "slow" (three seconds), "500", "thread" (the
        thread that runs graphs dies), or the text of an exception of torch, as ComfyUI reports it:
        "torch.OutOfMemoryError: CUDA out of memory"; after "late " it comes from the last node

With `picture`, the path of a PNG, each picture is that one instead of an empty one of the size that was asked for;
`decoding_s` is how long a picture takes after the last step of the sampler.
With `sticky`, an exception that names CUDA repeats until the process ends, as torch's do. `device` is what it says that
it runs on.
"""

import asyncio
import json
import os
import queue
import shutil
import signal
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

from aiohttp import web

PLAN = Path(__file__).with_name("plan.json")
TRANSCRIPT = Path(__file__).with_name("success.json")
RECORDED_IN = Path(__file__).parent / "handler" / "comfyui" / "transcripts" / "success.json"
NOTHING_PLANNED = {
    "starts": [],
    "graphs": [],
    "frees": [],
    "sticky": False,
    "device": "cpu",
    "picture": "",
    "decoding_s": 0,
    "seen": [],
}
ACCEPTED_S = 0.05  # until the answer that accepts a graph has been sent
ALPHA = {"under_half": 0.6, "border_transparent": 1.0, "minimum": 0.0, "maximum": 1.0}  # newer than the transcript


def install(folder, **plan):
    """Makes `folder` a COMFYUI_DIR of the fake; returns the plan's file, in which `seen` lists what was used."""
    python, app = folder / "venv" / "bin" / "python", folder / "app"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    app.mkdir()
    shutil.copy(__file__, app / "main.py")
    shutil.copy(RECORDED_IN, app)
    (app / PLAN.name).write_text(json.dumps(NOTHING_PLANNED | plan))
    return app / PLAN.name


def png_of(graph):
    """Returns an empty RGBA PNG of the graph's size."""
    width, height = next(
        (node["inputs"]["width"], node["inputs"]["height"]) for node in graph.values() if "width" in node["inputs"]
    )

    def chunk(kind, body):
        return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes(height * (1 + 4 * width)))
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def planned(name):
    """Takes the next entry of a list off the plan, and notes that it was used."""
    plan = json.loads(PLAN.read_text())
    fault = plan[name].pop(0) if plan[name] else ""
    plan["seen"].append(f"{name[:-1]} {fault}".strip())
    written = PLAN.with_suffix(".new")
    written.write_text(json.dumps(plan))
    written.replace(PLAN)  # a test may kill this process or read the plan at any moment
    return fault


class Fake:
    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.sockets, self.runs, self.stuck = {}, queue.Queue(), ""
        self.running = ""
        plan = json.loads(PLAN.read_text())
        self.decoding_s = plan["decoding_s"]
        self.picture = Path(plan["picture"]).read_bytes() if plan["picture"] else b""
        self.recorded = json.loads(TRANSCRIPT.read_text())

    async def websocket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        async for _ in socket:
            pass
        return socket

    async def prompt(self, request):
        body = await request.json()
        fault = self.stuck or planned("graphs")
        if fault == "die before":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "500":
            raise RuntimeError("validation failed")
        self.running = body["prompt_id"]
        self.runs.put((body, fault))
        return web.json_response({"prompt_id": body["prompt_id"], "number": 0, "node_errors": {}})

    async def stats(self, request):
        system = {"comfyui_version": self.recorded["comfyui"], "pytorch_version": "2.10.0"}
        return web.json_response({"system": system, "devices": [{"name": json.loads(PLAN.read_text())["device"]}]})

    async def empty(self, request):
        if request.path == "/free":
            planned("frees")
        return web.json_response({})

    async def queue(self, request):
        running = [[0, self.running, {}, {}, []]] if self.running else []
        return web.json_response({"queue_running": running, "queue_pending": []})

    def prompt_worker(self):
        while True:
            body, fault = self.runs.get()
            kind, _, message = fault.removeprefix("late ").partition(": ")
            fails_at = "executed" if fault.startswith("late ") else "progress"
            time.sleep(ACCEPTED_S)
            for frame in self.recorded["frames"]:
                if "binary" in frame:
                    time.sleep(self.decoding_s)
                    self.send(body, struct.pack(">II", 1, 2) + (self.picture or png_of(body["prompt"])))
                    continue
                data = json.loads(frame["text"].replace(self.recorded["prompt_id"], body["prompt_id"]))
                if data["type"] == "executed":
                    data["data"]["output"]["alpha"][0] |= ALPHA
                if data["type"] == "progress" and fault == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if data["type"] == "progress" and fault == "hang":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if data["type"] == "execution_start" and fault == "slow":
                    time.sleep(3)
                if data["type"] == "progress" and fault == "thread":
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
                if data["type"] == fails_at and message:
                    self.stuck = fault if "CUDA error" in fault and json.loads(PLAN.read_text())["sticky"] else ""
                    error = {"prompt_id": body["prompt_id"], "node_type": "KSampler", "exception_type": kind}
                    self.send(body, {"type": "execution_error", "data": {**error, "exception_message": message}})
                    self.send(body, {"type": "executing", "data": {"node": None, "prompt_id": body["prompt_id"]}})
                    break
                self.send(body, data)
            self.running = ""

    def send(self, body, message):
        socket = self.sockets[body["client_id"]]
        sent = socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(json.dumps(message))
        asyncio.run_coroutine_threadsafe(sent, self.loop)

    def serve(self, port):
        app = web.Application()
        app.add_routes(
            [web.get("/ws", self.websocket), web.post("/prompt", self.prompt), web.get("/queue", self.queue)]
        )
        app.add_routes([web.get("/system_stats", self.stats), web.route("*", "/{path:.*}", self.empty)])
        threading.Thread(target=self.prompt_worker, daemon=True).start()
        web.run_app(app, host="127.0.0.1", port=port, loop=self.loop, print=None, handle_signals=False)


if __name__ == "__main__":
    match planned("starts"):
        case "die":
            raise RuntimeError("Found no NVIDIA driver on your system")
        case "hang":
            time.sleep(600)
    Fake().serve(int(sys.argv[sys.argv.index("--port") + 1]))
