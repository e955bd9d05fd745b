"""RunPod's side of the worker's protocol, for SDK 1.12.0: sends jobs and stop signals, receives results."""

import asyncio
import json
import queue
import time
import urllib.parse

from aiohttp import web
from loopback import LoopbackServer

WORKER = "test-worker"


class ControlPlane(LoopbackServer):
    """Serves jobs added with `submit`, collects what the worker posts; use it as a context manager.

    Attributes:
        poll_s: how long a poll waits for a job or a stop signal.
        body_after_s: how long after its headers a job is sent.
        taken: ids of the jobs that were handed out.
        progress: (job id, progress) of each report while a job runs.
        pings: query of each ping, in which the worker reports its jobs or that it is unhealthy.
    """

    def __init__(self):
        self.poll_s, self.body_after_s = 0.5, 0.0
        self.results = queue.Queue()
        self.taken, self.pings, self.progress = [], [], []
        self._jobs, self._stops = queue.Queue(), queue.Queue()

    def submit(self, job_id, job_input):
        self._jobs.put({"id": job_id, "input": job_input})

    def stop(self, job_id):
        self._stops.put(job_id)

    def result(self, timeout_s=60):
        """Returns (job id, posted JSON, bytes of it) of the next finished job."""
        return self.results.get(timeout=timeout_s)

    @property
    def environment(self):
        base = f"http://{self.address}"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": "key",
            "RUNPOD_POD_ID": WORKER,
            "RUNPOD_ENDPOINT_ID": "endpoint",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",  # they measure the machine and reach out to the network
        }

    def routes(self):
        return [
            web.get(f"/job-take/{WORKER}", self._take),
            web.get(f"/job-stop/{WORKER}", self._stop_signals),
            web.post(f"/job-done/{WORKER}/{{id}}", self._done),
            web.get(f"/ping/{WORKER}", self._ping),
        ]

    async def _next(self, source, request):
        """Long-polls, unless the worker hangs up."""
        end_s = time.monotonic() + self.poll_s
        while time.monotonic() < end_s and request.transport is not None and not request.transport.is_closing():
            try:
                return source.get_nowait()
            except queue.Empty:
                await asyncio.sleep(0.05)
        return None

    async def _take(self, request):
        job = await self._next(self._jobs, request)
        if not job:
            return web.Response(status=204)
        self.taken.append(job["id"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await asyncio.sleep(self.body_after_s)
        await response.write(json.dumps(job).encode())
        return response

    async def _stop_signals(self, request):
        job_id = await self._next(self._stops, request)
        return web.json_response({"jobsToStop": [job_id]}) if job_id else web.Response(status=204)

    async def _done(self, request):
        body = await request.read()
        job_id, posted = urllib.parse.unquote(request.match_info["id"]), json.loads(body)
        if posted.get("status") == "IN_PROGRESS":
            self.progress.append((job_id, posted["output"]))
        else:
            self.results.put((job_id, posted, len(body)))
        return web.Response()

    async def _ping(self, request):
        self.pings.append(dict(request.query))
        return web.Response()
