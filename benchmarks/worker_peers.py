"""The worker's way through ComfyUI and worker-comfyui's, in turn on one ComfyUI that was started as stock `main.py`.

worker-comfyui 5.8.5 (read, not copied) asks `/` whether ComfyUI is there, opens a websocket, posts the graph, waits
for its end, asks `/history`, and reads the saved picture with `/view`; each request has a connection of its own.
"""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pydantic_core
import requests
import websocket

from handler import proxies
from handler.comfyui.client import ComfyClient
from handler.comfyui.options import CPU_ENVIRONMENT
from handler.comfyui.process import ComfyProcess
from handler.job.generate import Generator
from handler.job.profiles import read
from handler.job.runner import Runner
from handler.serverless import make_handler
from handler.settings import Settings
from handler.workflow.transparency import OUTPUT_CLASS

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "integration"))

from counted import counters  # noqa: E402

HOST = "127.0.0.1"
POLL_S = 0.05  # as worker-comfyui
START_TIMEOUT_S = 120
WARM = 2  # jobs that are not counted
SIDES = (64, 1024)  # of the ready-made pictures
AS_JSON = {"ours": pydantic_core.to_json, "worker-comfyui": json.dumps}  # as handler/job_loop.py, and the SDK
AVERAGES = {"cpu_ms": statistics.fmean}  # by number; the system counts CPU time in steps of 10 ms
READY_MADE = """
import numpy as np
import torch

class ReadyMade:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "picture", "benchmark"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"side": ("INT", {"default": 64, "max": 4096})}}

    def picture(self, side):
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:side, :side] / side
        colour = np.stack((np.sin(3 * x + 2 * y), np.cos(2 * x - 3 * y), x * y), axis=-1)
        colour = 0.5 + 0.25 * colour + 0.02 * rng.standard_normal((side, side, 3))
        alpha = (0.38 - np.hypot(x - 0.5, y - 0.5)) / 0.03
        return (torch.from_numpy(np.dstack((colour, alpha)).clip(0, 1).astype(np.float32))[None],)

NODE_CLASS_MAPPINGS = {"ReadyMade": ReadyMade}
"""


class AttachedComfy(ComfyProcess):
    """A ComfyUI that something else has started."""

    def __init__(self, settings: Settings, address: str) -> None:
        super().__init__(settings)
        self._client = ComfyClient(address)
        if not self._client.is_ready():
            raise ConnectionError(f"no ComfyUI at {address}")

    is_ready = True

    def client(self, _):
        return self._client


def compare(jobs: int) -> dict[str, object]:
    """Returns stock ComfyUI's start with its first job, and for each size the numbers of `jobs` jobs each way."""
    proxies.bypass_for_loopback()
    first = read(tiny())
    drawing = first.render({"num_inference_steps": 1, "width": 64, "height": 64})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with stock_comfyui(folder) as (address, process):
            began_s = process.create_time()
            until_it_answers(address)
            peer_job(address, saving(drawing, first.output_node, "first"))
            first_s = time.time() - began_s
            found = {side: asyncio.run(in_turn(address, process, folder, side, jobs)) for side in SIDES}
    return {"stock_first_result_s": round(first_s, 2), "ready_made": found}


async def in_turn(
    address: str, comfyui: psutil.Process, folder: Path, side: int, jobs: int
) -> dict[str, dict[str, float]]:
    """Returns for both ways the averages of a job with a ready-made picture: ms, counts and bytes."""
    settings = tiny(workflows_dir=ready_made(folder / f"workflows-{side}", side))
    workflow = read(settings)
    generator = Generator(workflow, AttachedComfy(settings, address), settings)
    handle = make_handler(Runner(generator), settings)
    graph = workflow.render({})

    async def ours(number):
        reply = await handle({"id": str(number), "input": {"prompt": "a red apple", "seed": number + WARM}})
        seconds = json.loads(reply["info"])["seconds"]
        return reply, sum(value for name, value in seconds.items() if name not in {"total", "comfyui_ready"})

    async def peers(number):
        return peer_job(address, saving(graph, workflow.output_node, f"{side}-{number}"))

    found = {"ours": [], "worker-comfyui": []}
    for number in range(-WARM, jobs):
        for way, run in (("ours", ours), ("worker-comfyui", peers)):
            files = len(list(folder.rglob("*.png")))
            counters().clear()
            cpu_s = cpu_seconds(comfyui)
            began_s = time.perf_counter()
            reply, nodes_s = await run(number)
            total_s = time.perf_counter() - began_s
            cpu_s = cpu_seconds(comfyui) - cpu_s
            one = {name: counters()[name] for name in ("requests", "sockets", "files")}
            one["files"] += len(list(folder.rglob("*.png"))) - files
            began_s = time.perf_counter()
            text = AS_JSON[way](reply)
            one |= {"as_json_ms": (time.perf_counter() - began_s) * 1e3, "reply_bytes": len(text)}
            one |= {"cpu_ms": cpu_s * 1e3, "job_ms": total_s * 1e3, "outside_the_nodes_ms": (total_s - nodes_s) * 1e3}
            if number >= 0:
                found[way].append(one)
    return {
        way: {name: round(AVERAGES.get(name, statistics.median)([one[name] for one in each]), 2) for name in each[0]}
        for way, each in found.items()
    }


def tiny(**changes) -> Settings:
    return Settings(profile="tiny", device="cpu", alpha_check="accept", **changes)


def peer_job(address: str, graph: dict) -> tuple[dict, float]:
    """Runs a graph as worker-comfyui does. Returns its reply, and the seconds from the first node to the last."""
    requests.get(f"http://{address}/", timeout=5)
    client_id = str(uuid.uuid4())
    events = websocket.WebSocket()
    events.connect(f"ws://{address}/ws?clientId={client_id}", timeout=START_TIMEOUT_S)
    try:
        body = json.dumps({"prompt": graph, "client_id": client_id}).encode()
        headers = {"Content-Type": "application/json"}
        answer = requests.post(f"http://{address}/prompt", data=body, headers=headers, timeout=30)
        answer.raise_for_status()
        prompt_id = answer.json()["prompt_id"]
        moments_s = []
        while True:
            frame = events.recv()
            message = json.loads(frame) if isinstance(frame, str) else {}
            if message.get("type") == "executing" and message["data"].get("prompt_id") == prompt_id:
                moments_s.append(time.perf_counter())
                if message["data"]["node"] is None:
                    break
        history = requests.get(f"http://{address}/history/{prompt_id}", timeout=30).json()[prompt_id]
        images = []
        for output in history["outputs"].values():
            for image in output["images"]:
                content = requests.get(f"http://{address}/view", params=image, timeout=60).content
                encoded = base64.b64encode(content).decode()
                images.append({"filename": image["filename"], "type": "base64", "data": encoded})
    finally:
        events.close()
    return {"images": images}, moments_s[-1] - moments_s[0]


def saving(graph: dict, output_node: str, prefix: str) -> dict:
    """Returns the graph with ComfyUI's SaveImage as its output node; the prefix keeps its result out of the cache."""
    inputs = {"images": graph[output_node]["inputs"]["images"], "filename_prefix": prefix}
    return {**graph, output_node: {"class_type": "SaveImage", "inputs": inputs}}


def ready_made(folder: Path, side: int) -> Path:
    """Returns a new folder of stored workflows, whose pictures come from the node ReadyMade."""
    shutil.copytree(ROOT / "workflows", folder)
    file, profile = folder / "txt2img_alpha.json", folder / "profiles" / "tiny.json"
    graph, overrides = json.loads(file.read_text("utf-8")), json.loads(profile.read_text("utf-8"))
    graph["20"] = {"class_type": "ReadyMade", "inputs": {"side": side}, "_meta": {"title": "Ready-made"}}
    output = next(node for node in graph.values() if node["class_type"] == OUTPUT_CLASS)
    output["inputs"]["images"] = ["20", 0]
    overrides["graph"]["Size"] = {"width": side, "height": side}
    for name in ("width", "height"):
        overrides["request"][name]["maximum"] = max(SIDES)
    file.write_text(json.dumps(graph), "utf-8")
    profile.write_text(json.dumps(overrides), "utf-8")
    return folder


@contextlib.contextmanager
def stock_comfyui(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Yields the address and process of a ComfyUI on the CPU, whose files are in `folder`.

    Its options are its own, its environment is the worker's: threads and allocator make both ways faster. Its own
    modules are not compiled, as in a new container of worker-comfyui, whose image installs ComfyUI but never runs it;
    those of its packages are.
    """
    app = folder / "app"
    shutil.copytree(ROOT / ".comfyui" / "app", app, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    pack = folder / "packs" / "ready_made"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(READY_MADE, "utf-8")
    (folder / "packs.yaml").write_text(f"packs:\n  custom_nodes: {pack.parent}\n", "utf-8")
    places = {name: folder / name for name in ("output", "temp", "user", "frontend")}
    for place in places.values():
        place.mkdir()
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    installed = ROOT / ".comfyui"
    command = [
        *(installed / "venv" / "bin" / "python", "-u", app / "main.py", "--cpu"),
        *("--listen", HOST, "--port", str(port), "--disable-auto-launch", "--disable-metadata"),
        *("--base-directory", installed / "data", "--models-directory", ROOT / "models"),
        *(part for name in ("output", "temp", "user") for part in (f"--{name}-directory", places[name])),
        *("--front-end-root", places["frontend"], "--extra-model-paths-config", folder / "packs.yaml"),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | CPU_ENVIRONMENT, stdout=log, stderr=log)
        try:
            yield f"{HOST}:{port}", psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


def cpu_seconds(comfyui: psutil.Process) -> float:
    """Returns the CPU time of this process and of ComfyUI."""
    used = comfyui.cpu_times()
    return time.process_time() + used.user + used.system


def until_it_answers(address: str) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"http://{address}/system_stats", timeout=5)
            return
        time.sleep(POLL_S)
    raise TimeoutError("ComfyUI did not start")
