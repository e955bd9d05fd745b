"""Clients of the HTTP server: they ask for pictures until each has an end, whatever happens in between."""

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import requests

from tools.soak.ledger import COMPLETED, GONE, Answer, Ledger
from tools.soak.webhook_receiver import read_end

UNFINISHED = {"IN_QUEUE", "IN_PROGRESS"}
NOT_ACCEPTED = {429, 503}  # try again later, as the API says
ANSWER_S = 300.0  # after that a job counts as lost
POLL_S = 0.05
RETRY_S = 0.3


class Client:
    """One caller. Belongs to one thread."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self._url = url
        self._ledger = ledger
        self._http = requests.Session()

    def run(self, request: Mapping[str, Any], may_end: frozenset[str] = COMPLETED, **envelope: Any) -> str:
        """Submits a job to /run until it is accepted, and returns its id. `envelope`: its webhook or policy."""
        job = self._submit("/v2/soak/run", {"input": request, **envelope})
        self._ledger.accepted(job["id"], may_end, is_posted="webhook" in envelope, is_kept=True)
        return str(job["id"])

    def runsync(self, request: Mapping[str, Any]) -> None:
        """Has a picture drawn by /runsync."""
        job = self._submit("/v2/soak/runsync?wait=300000", {"input": request})
        self._ledger.accepted(job["id"])
        if job["status"] in UNFINISHED:  # the server stopped
            self.wait(job["id"])
        else:
            self._note(job)

    def txt2img(self, request: Mapping[str, Any]) -> None:
        """Has a picture drawn by /alpha/v1/txt2img, and fetches it."""
        reply = self._submit("/alpha/v1/txt2img", request)
        if "filename" not in reply:
            self._note(reply)
            return
        name = reply["filename"]
        self._ledger.accepted(name)
        while (picture := self._try("GET", f"/alpha/v1/file/{name}")) is None:
            time.sleep(RETRY_S)
        if picture.status_code == 200:
            self._ledger.answered(name, Answer.of("COMPLETED", reply), reply)
        else:
            self._ledger.answered(name, Answer(GONE, ""))

    def wait(self, job_id: str, stop: Callable[[Mapping[str, Any]], bool] = lambda _: False) -> Mapping[str, Any]:
        """Returns the job at its end, which is noted, or as soon as `stop(job)`; notes GONE if it is unknown."""
        end_s = time.monotonic() + ANSWER_S
        while time.monotonic() < end_s:
            job = self.status(job_id)
            if job is not None and (stop(job) or job["status"] not in UNFINISHED):
                if job["status"] not in UNFINISHED:
                    self._note(job)
                return job
            time.sleep(POLL_S)
        return {"id": job_id, "status": "no answer"}

    def status(self, job_id: str) -> Mapping[str, Any] | None:
        """Returns the job as it is now, or None without a usable answer."""
        response = self._try("GET", f"/v2/soak/status/{job_id}")
        if response is None or response.status_code not in {200, 404}:
            return None
        return response.json() if response.status_code == 200 else {"id": job_id, "status": GONE}

    def cancel(self, job_id: str) -> None:
        """Cancels a job and notes its end."""
        while (response := self._try("POST", f"/v2/soak/cancel/{job_id}")) is None or response.status_code == 503:
            time.sleep(RETRY_S)
        self.wait(job_id)

    def hang_up(self, request: Mapping[str, Any], after_s: float) -> None:
        """Asks /txt2img for a picture and closes the connection before its end."""
        try:
            requests.post(f"{self._url}/alpha/v1/txt2img", json=request, timeout=(5, after_s))
        except requests.RequestException:
            return
        self._ledger.cut_off()  # the picture was drawn in time

    def _note(self, job: Mapping[str, Any]) -> None:
        if job["status"] == GONE:
            self._ledger.answered(job["id"], Answer(GONE, ""))
        else:
            self._ledger.answered(job["id"], *read_end(job))

    def _submit(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the response that accepts the request, which may take several submissions."""
        while True:
            try:
                response = self._http.post(self._url + path, json=body, timeout=ANSWER_S + 60)
            except requests.ConnectionError as exc:
                if "Connection refused" not in str(exc):
                    self._ledger.cut_off()
            else:
                if response.status_code == 200:
                    return response.json()
                if response.status_code not in NOT_ACCEPTED:
                    return self._failed(response)
            time.sleep(RETRY_S)

    def _failed(self, response: requests.Response) -> dict[str, Any]:
        """Notes a request of its own that ended with an error at once, and returns it as a failed job."""
        job = {"id": str(uuid.uuid4()), "status": "FAILED", "error": f"HTTP {response.status_code} {response.text}"}
        self._ledger.accepted(job["id"])
        return job

    def _try(self, method: str, path: str) -> requests.Response | None:
        try:
            return self._http.request(method, self._url + path, timeout=30)
        except requests.RequestException:
            return None
