"""What the server posts finished jobs to."""

from aiohttp import web
from loopback import LoopbackServer

from tools.soak.ledger import Answer, Ledger


class WebhookReceiver(LoopbackServer):
    """Notes each post that it acknowledges in the ledger.

    Attributes:
        is_down: while it is, connections are cut before an answer.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.is_down = False
        self._ledger = ledger

    def url(self) -> str:
        return f"http://{self.address}/done"

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/done", self._done)]

    async def _done(self, request: web.Request) -> web.Response:
        job = await request.json()
        if self.is_down:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=503)
        self._ledger.posted(job["id"], *read_end(job))
        return web.Response()


def read_end(job: dict) -> tuple[Answer, dict | None, str]:
    """Returns the end of a job in the shape of RunPod's API, its output and its error."""
    output = job.get("output") if job["status"] == "COMPLETED" else None
    error = job.get("error") or ""
    return Answer.of(job["status"], output or error), output, error
