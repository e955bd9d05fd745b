"""Many clients at once, valid and invalid, on the real server with the tiny model."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import requests
from server import SMALL

GOOD = {"prompt": "a red apple", **SMALL}
BAD = [{}, {"prompt": ""}, {"prompt": "x", "seed": -1}, {"prompt": "x", "nothing": 1}, {"prompt": ["x"]}]
GROWTH_BYTES = 60_000_000


class Crowd:
    """What the clients did, and the results."""

    def __init__(self, server, end_s):
        self.server = server
        self.end_s = end_s
        self.accepted = []  # (job id, seed, or None if it must fail)
        self.answers = []  # jobs that were over when the answer came
        self.refused = 0
        self._lock = threading.Lock()

    def client(self, number):
        """Does one thing after another; raises if the server does anything wrong."""
        rng = random.Random(number)
        http = requests.Session()
        while time.monotonic() < self.end_s:
            act = rng.choices(
                [self.submit, self.submit_bad, self.runsync, self.alpha, self.alpha_bad, self.noise, self.cancel],
                [4, 1, 3, 3, 1, 1, 1],
            )[0]
            act(http, rng)
            time.sleep(rng.random() * 0.2)

    def post(self, http, path, body, expected):
        answer = http.post(f"{self.server.url}{path}", json=body, timeout=300)
        if answer.status_code == 429:
            assert answer.headers["Retry-After"]
            with self._lock:
                self.refused += 1
            return None
        assert answer.status_code == expected, answer.text
        return answer.json()

    def submit(self, http, rng):
        seed = rng.randrange(2**53)
        if answer := self.post(http, "/v2/x/run", {"input": {**GOOD, "seed": seed}}, 200):
            with self._lock:
                self.accepted.append((answer["id"], seed))

    def submit_bad(self, http, rng):
        if answer := self.post(http, "/v2/x/run", {"input": rng.choice(BAD)}, 200):
            with self._lock:
                self.accepted.append((answer["id"], None))

    def runsync(self, http, rng):
        seed = rng.randrange(2**53)
        if answer := self.post(http, "/v2/x/runsync", {"input": {**GOOD, "seed": seed}}, 200):
            with self._lock:
                if answer["status"] == "COMPLETED":
                    assert answer["output"]["seed"] == seed
                    self.answers.append(answer["output"]["filename"])
                else:
                    assert answer["status"] in {"IN_QUEUE", "IN_PROGRESS"}, answer
                    self.accepted.append((answer["id"], seed))

    def alpha(self, http, rng):
        if answer := self.post(http, "/alpha/v1/txt2img", GOOD, 200):
            picture = http.get(answer["url"], timeout=60)
            assert picture.content.startswith(b"\x89PNG")
            with self._lock:
                self.answers.append(answer["filename"])

    def alpha_bad(self, http, rng):
        answer = self.post(http, "/alpha/v1/txt2img", rng.choice(BAD), 422)
        assert answer is None or answer["error"]["code"] == "invalid_input"

    def noise(self, http, rng):
        answer = http.post(f"{self.server.url}/v2/x/run", data=rng.randbytes(50), timeout=60)
        assert answer.status_code in {400, 415}
        assert http.get(f"{self.server.url}/v2/x/status/nothing", timeout=60).status_code == 404

    def cancel(self, http, rng):
        if answer := self.post(http, "/v2/x/run", {"input": GOOD}, 200):
            cancelled = http.post(f"{self.server.url}/v2/x/cancel/{answer['id']}", timeout=60).json()
            assert cancelled["status"] in {"CANCELLED", "COMPLETED"}, cancelled


def memory_bytes(process):
    """Returns the memory of the server and ComfyUI together."""
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_info().rss for member in family)


def metrics(server):
    lines = server.http.get(f"{server.url}/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.mark.parametrize(
    ("clients", "seconds"), [(8, 2), pytest.param(50, 60, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_every_accepted_job_ends_once(server, clients, seconds):
    """Every job ends with a picture or a clear error; none is lost or drawn twice, and memory does not grow."""
    before = metrics(server)
    with ThreadPoolExecutor(clients) as pool:
        process = psutil.Process(server.process.pid)
        crowd = Crowd(server, time.monotonic() + seconds)
        working = [pool.submit(crowd.client, number) for number in range(clients)]
        time.sleep(seconds / 2)
        halfway_bytes = memory_bytes(process)
        for future in working:
            future.result(300)
        results = {job_id: (server.result(job_id), seed) for job_id, seed in crowd.accepted}
        grown_bytes = memory_bytes(process) - halfway_bytes
        for job, seed in results.values():
            if seed is None:
                assert job["error"].startswith("invalid_input: "), job
            else:
                assert (job["status"], job["output"]["seed"]) == ("COMPLETED", seed)
        drawn = [job["output"]["filename"] for job, seed in results.values() if seed is not None] + crowd.answers
        assert len(set(drawn)) == len(drawn) > 0
        counts = {name: value - before.get(name, 0) for name, value in metrics(server).items()}
        finished = sum(value for name, value in counts.items() if name.startswith("alpha_jobs_finished_total"))
        assert finished == counts["alpha_jobs_accepted_total"]
        assert counts['alpha_jobs_finished_total{outcome="completed"}'] >= len(drawn)
        assert counts["alpha_comfyui_restarts_total"] == 0
        assert grown_bytes < GROWTH_BYTES
        print(f"{finished:.0f} jobs, {len(drawn)} pictures kept, {crowd.refused} refused, {grown_bytes / 1e6:+.1f} MB")
