"""Submits a job, polls its status until it has finished, and writes the picture.

Works with RunPod (ENDPOINT_ID, RUNPOD_API_KEY), and with scripts/serve (BASE_URL=http://127.0.0.1:8000).
"""

import base64
import os
import sys
import time
from pathlib import Path

import requests

BASE_URL = os.environ.get("BASE_URL", "https://api.runpod.ai")
ENDPOINT = os.environ.get("ENDPOINT_ID", "local")
HEADERS = {"Authorization": f"Bearer {os.environ.get('RUNPOD_API_KEY', 'none')}"}

jobs = f"{BASE_URL}/v2/{ENDPOINT}"
answer = requests.post(f"{jobs}/run", json={"input": {"prompt": "a blue star"}}, headers=HEADERS, timeout=60)
answer.raise_for_status()
job = answer.json()
while job["status"] in {"IN_QUEUE", "IN_PROGRESS"}:
    time.sleep(1)
    job = requests.get(f"{jobs}/status/{job['id']}", headers=HEADERS, timeout=60).json()
    print(job["status"], job.get("output", {}).get("step", ""))
if job["status"] != "COMPLETED":
    sys.exit(job.get("error", job["status"]))
Path(job["output"]["filename"]).write_bytes(base64.b64decode(job["output"]["image_base64"]))
print(job["output"]["filename"])
