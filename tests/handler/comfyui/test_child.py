"""What the process that runs ComfyUI's main.py adds to it."""

import sys
import time

import requests

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.settings import Settings

MAIN = """
import gc, http.server, json, sys

STARTS_WITH = gc.isenabled()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        collector = {"starts_with": STARTS_WITH, "is_enabled": gc.isenabled(), "left_out": gc.get_freeze_count()}
        system = {"comfyui_version": "0", "pytorch_version": "0", **collector}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"system": system, "devices": [{"name": "cpu"}]}).encode())

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def test_garbage_is_collected_once_comfyui_is_ready(tmp_path):
    """Not during the start, and without looking through what the start made: both took a sixth of the start."""
    python, main = tmp_path / "venv" / "bin" / "python", tmp_path / "app" / "main.py"
    for file, text in ((python, f'#!/bin/sh\nexec {sys.executable} "$@"\n'), (main, MAIN)):
        file.parent.mkdir(parents=True)
        file.write_text(text, "utf-8")
    python.chmod(0o755)
    with ComfyProcess(Settings(comfyui_dir=tmp_path, device="cpu")) as comfyui:
        address = comfyui.client(Deadline(20))._address
        end_s = time.monotonic() + 5
        while True:
            system = requests.get(f"http://{address}/system_stats", timeout=5).json()["system"]
            if system["is_enabled"]:
                break
            assert time.monotonic() < end_s
            time.sleep(0.01)
    assert not system["starts_with"]
    assert system["left_out"] > 1000
