"""RunPod's side of the worker's protocol, for SDK 1.12.0: sends jobs and stop signals, receives results."""

import asyncio
import json
import queue
import urllib.parse

from aiohttp import web
from loopback import LoopbackServer

WORKER = "test-worker"


class ControlPlane(LoopbackServer):
    """Serves jobs added with `submit`, collects what the worker posts; use it as a context manager.

    Attributes:
        taken: ids of the jobs that were handed out.
        pings: query of each ping, in which the worker reports its jobs or that it is unhealthy.
    """

    def __init__(self):
        self.results = queue.Queue()
        self.taken, self.pings = [], []
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

    async def _next(self, source):
        """Long-polls for half a second."""
        for _ in range(10):
            try:
                return source.get_nowait()
            except queue.Empty:
                await asyncio.sleep(0.05)
        return None

    async def _take(self, request):
        job = await self._next(self._jobs)
        if job:
            self.taken.append(job["id"])
        return web.json_response(job) if job else web.Response(status=204)

    async def _stop_signals(self, request):
        job_id = await self._next(self._stops)
        return web.json_response({"jobsToStop": [job_id]}) if job_id else web.Response(status=204)

    async def _done(self, request):
        body = await request.read()
        self.results.put((urllib.parse.unquote(request.match_info["id"]), json.loads(body), len(body)))
        return web.Response()

    async def _ping(self, request):
        self.pings.append(dict(request.query))
        return web.Response()
