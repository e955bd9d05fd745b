"""No client of this program sends a loopback connection to a proxy, however the environment names one."""

import asyncio
import base64
import hashlib
import json
import os
import socketserver
import threading
from pathlib import PurePosixPath

import pytest
from aiohttp import web
from loopback import LoopbackServer

from handler import proxies
from handler.cli.api import Api, Unreachable
from handler.cli.sources import Remote
from handler.comfyui.client import ComfyClient
from handler.deadline import Deadline
from handler.errors import InvalidInput
from handler.job.buckets import own_bucket
from handler.server import webhooks
from handler.server.background import Background
from handler.server.job_record import JobRequest
from handler.server.job_store import JobStore
from handler.settings import Settings
from handler.weights.download import Downloader, DownloadFailed
from handler.weights.manifest import Entry

CONTENT = b"what every GET returns"


class Peer(LoopbackServer):
    """Stands for ComfyUI, another server of ours, a mirror of the hub, a bucket and a webhook."""

    def routes(self):
        return [
            web.get("/ws", self._websocket),
            web.post("/v2/local/run", self._submit),
            web.get("/v2/local/status/{id}", self._status),
            web.get("/system_stats", self._stats),
            web.get("/{path:.*}", self._content),
            web.head("/pictures", self._accept),
            web.put("/{path:.*}", self._accept),
            web.post("/{path:.*}", self._content),
        ]

    async def _json(self, body):
        return web.json_response(body)

    async def _submit(self, _):
        return await self._json({"id": "1"})

    async def _content(self, _):
        return web.Response(body=CONTENT)

    async def _accept(self, _):
        return web.Response()

    async def _stats(self, _):
        system = {"comfyui_version": "0", "pytorch_version": "0"}
        return await self._json({"system": system, "devices": [{"name": "cpu"}]})

    async def _status(self, request):
        picture = {"url": f"http://{self.address}/picture.png"}
        if request.match_info["id"] != "1":
            picture["image_base64"] = base64.b64encode(CONTENT).decode()
        return await self._json({"status": "COMPLETED", "output": {**picture, "info": "{}"}})

    async def _websocket(self, request):
        accepted = web.WebSocketResponse()
        await accepted.prepare(request)
        return accepted


@pytest.fixture(scope="module")
def peer():
    with Peer() as running:
        yield running


@pytest.fixture(scope="module")
def trap():
    """A proxy that counts its connections and closes them."""

    class Trap(socketserver.ThreadingTCPServer):
        connections = 0

        def process_request(self, request, client_address):
            self.connections += 1
            self.shutdown_request(request)

    with Trap(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch):
    """Starts each test without a proxy, and restores what the tests set."""
    for name in {name for name in os.environ if name.lower().endswith("_proxy")} | {"no_proxy", "NO_PROXY"}:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def comfyui(address, _):
    client = ComfyClient(address)
    assert client.is_ready()
    client.close()


def comfyui_websocket(address, _):
    client = ComfyClient(address)
    connection = client._connect(Deadline(5))
    connection.close()
    client.close()


def another_server(address, _):
    with Api(f"http://{address}", None) as api:
        source = Remote([{"prompt": "an apple"}], api, "local", 5)
        assert source.draw(0, lambda *_: None).encoded == CONTENT


def hub(address, folder):
    digest = hashlib.sha256(CONTENT).hexdigest()
    entry = Entry("sdxl", digest, len(CONTENT), False, PurePosixPath("vae/x"), (f"http://{address}/x",))
    settings = Settings(models_dir=folder, weights_dirs="", hf_cache_dir=folder / "cache")
    downloader = Downloader(settings, lambda *_: None, lambda *_: None)
    assert [failure for _, failure in downloader.download([entry])] == [None]


def bucket(address, _):
    keys = {"bucket_access_key_id": "key", "bucket_secret_access_key": "secret", "bucket_name": "pictures"}
    own = own_bucket(Settings(bucket_endpoint_url=f"http://{address}", **keys))
    assert own.put("alpha_1_abcdef.png", b"PNG").startswith(f"http://{address}/pictures/")


def webhook(address, folder):
    store = JobStore(folder / "jobs.sqlite", queue_limit=1)
    store.add_failed("1", JobRequest({}, webhook=f"http://{address}/hook"), 60.0, InvalidInput("no prompt"))

    async def post():
        async with webhooks.Webhooks(store, None, Settings(data_dir=folder)).running(Background()):
            while store.due_webhooks():
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(post(), 5))
    store.close()


CLIENTS = [comfyui, comfyui_websocket, another_server, hub, bucket, webhook]
VARIABLES = [
    {"HTTP_PROXY": "http"},
    {"http_proxy": "http"},
    {"HTTPS_PROXY": "http"},
    {"ALL_PROXY": "http"},
    {"ALL_PROXY": "socks5"},
    {"all_proxy": "socks5h"},
    {"HTTP_PROXY": "http", "NO_PROXY": "example.com"},
    {"http_proxy": "http", "no_proxy": "example.com, .internal"},
    {"HTTP_PROXY": "http", "NO_PROXY": "127.0.0.1", "no_proxy": "example.com"},
]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
@pytest.mark.parametrize("variables", VARIABLES, ids=json.dumps)
def test_loopback_never_goes_through_a_proxy(client, variables, peer, trap, tmp_path, monkeypatch):
    """Each client, with each variable in both cases, reaches a peer on loopback, and the proxy sees nothing."""
    for name, value in variables.items():
        is_proxy = not name.lower().startswith("no_")
        host, port = trap.server_address
        monkeypatch.setenv(name, f"{value}://{host}:{port}" if is_proxy else value)
    proxies.bypass_for_loopback()
    before = trap.connections
    client(peer.address, tmp_path)
    assert trap.connections == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpcore leaves the socket open
def test_other_hosts_go_through_the_proxy(trap, tmp_path, monkeypatch):
    """The proxy of the environment is used for everything that is not loopback."""
    host, port = trap.server_address
    monkeypatch.setenv("ALL_PROXY", f"socks5://{host}:{port}")
    proxies.bypass_for_loopback()
    before = trap.connections
    with Api("http://server.example", None) as api, pytest.raises(Unreachable):
        Remote([{}], api, "local", 5).draw(0, lambda *_: None)
    assert trap.connections > before


@pytest.mark.parametrize("given", ["*", "example.com", " a.example , b.example,"])
def test_hosts_of_no_proxy_remain(given, monkeypatch):
    """What NO_PROXY names keeps its meaning."""
    monkeypatch.setenv("NO_PROXY", given)
    proxies.bypass_for_loopback()
    proxies.bypass_for_loopback()
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    expected = hosts if given == "*" else [*hosts, "localhost", "127.0.0.1", "::1"]
    assert os.environ["NO_PROXY"].split(",") == expected


@pytest.mark.parametrize("address", ["gopher://proxy.example:70", "http://proxy.example:port", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_named(address, tmp_path, monkeypatch):
    """The command line and the download say that the proxy is at fault, without a traceback."""
    monkeypatch.setenv("all_proxy", address)
    with pytest.raises(Unreachable, match="proxy of the environment"):
        Api("http://server.example", None)
    with pytest.raises(DownloadFailed, match="proxy of the environment"):
        Downloader(Settings(models_dir=tmp_path), lambda *_: None, lambda *_: None)
    with pytest.raises(proxies.BadProxy):
        proxies.async_client()
