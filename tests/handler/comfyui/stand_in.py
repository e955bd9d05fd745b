"""A server that replays ComfyUI's recorded protocol, for faults that the real one shows only by chance."""

import asyncio
import base64
import json
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web
from loopback import LoopbackServer


@dataclass
class StandIn(LoopbackServer):
    """Replays a transcript for each submitted graph.

    Attributes:
        recorded: the transcript.
        faults: the fault in the first, second … submission; later ones have none:
            "close" drops the websocket before the picture, "mute" sends nothing after accepting the graph,
            "lose picture" and "lose end" leave frames out, "reset" drops the connection of /prompt.
        knows: whether /history has the run.
        pending: whether /queue has the run, even after an interrupt.
    """

    recorded: dict
    faults: list[str] = field(default_factory=list)
    knows: bool = True
    pending: bool = False
    submissions: list[dict] = field(default_factory=list)
    requests: list[tuple[str, object]] = field(default_factory=list)
    sockets: dict = field(default_factory=dict)

    def routes(self):
        return [
            web.get("/ws", self._websocket),
            web.post("/prompt", self._prompt),
            web.get("/history/{id}", self._history),
            web.get("/queue", self._queue),
            web.post("/{path}", self._post),
        ]

    def drop_sockets(self, is_aborted):
        """Sends every websocket a close frame, or resets its connection; returns when that is done."""

        async def drop():
            for socket in self.sockets.values():
                if is_aborted:
                    socket._req.transport.abort()
                else:
                    self._closing = asyncio.create_task(socket.close())
            await asyncio.sleep(0.1)

        asyncio.run_coroutine_threadsafe(drop(), self._loop).result(5)

    async def _websocket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        async for message in socket:
            if message.type is WSMsgType.CLOSE:
                break
        return socket

    async def _prompt(self, request):
        body = await request.json()
        self.submissions.append(body)
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "reset":
            request.transport.abort()
        answer = json.loads(self._mine(json.dumps(self.recorded["answer"]), body["prompt_id"]))
        if self.recorded["status"] == 200:
            self._replaying = asyncio.create_task(self._replay(body, fault))
        return web.json_response(answer, status=self.recorded["status"])

    async def _replay(self, body, fault):
        socket = self.sockets[body["client_id"]]
        for frame in self.recorded["frames"]:
            if fault == "mute":
                return
            if "binary" in frame:
                if fault == "close":
                    await socket.close()
                    return
                if fault != "lose picture":
                    await socket.send_bytes(base64.b64decode(frame["binary"]))
            elif not (fault == "lose end" and '"node": null' in frame["text"]):
                await socket.send_str(self._mine(frame["text"], body["prompt_id"]))

    async def _history(self, request):
        prompt_id = request.match_info["id"]
        entries = self.recorded["history"] if self.knows else {}
        return web.Response(text=self._mine(json.dumps(entries), prompt_id), content_type="application/json")

    async def _queue(self, request):
        running = [[0, self.submissions[-1]["prompt_id"], {}, {}, []]] if self.pending else []
        return web.json_response({"queue_running": running, "queue_pending": []})

    async def _post(self, request):
        self.requests.append((request.match_info["path"], await request.json()))
        return web.Response()

    def _mine(self, text, prompt_id):
        return text.replace(self.recorded["prompt_id"], prompt_id)
