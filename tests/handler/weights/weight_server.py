"""A real HTTP server for one file, which misbehaves in the ways that a test asks for."""

import asyncio
import hashlib
import random
from pathlib import PurePosixPath

from aiohttp import web

from handler.weights.manifest import Entry
from tests.loopback import LoopbackServer

SIZE = 300_000
HALF = SIZE // 2
CONTENT = random.Random(1).randbytes(SIZE)
OTHER = random.Random(2).randbytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "checkpoints/a.safetensors"


class WeightServer(LoopbackServer):
    """Answers each request with the next behaviour of `plan`, then correctly."""

    def __init__(self):
        self.plan = []
        self.seen = []

    def routes(self):
        return [web.get("/{name:.*}", self.answer)]

    async def answer(self, request):
        self.seen.append(request)
        return await (self.plan.pop(0) if self.plan else plain)(request)

    def url(self, name="a"):
        return f"http://{self.address}/{name}"

    def ranges(self):
        return [request.headers.get("Range") for request in self.seen]


def entry(*urls, path=NAME, sha256=SHA256, size_bytes=SIZE, is_rough=False):
    return Entry("sdxl", sha256, size_bytes, is_rough, PurePosixPath(path), urls)


def line(sha256=SHA256, size="7", path=NAME, url="https://example.com/a"):
    """Returns a line of models.txt."""
    return f"{sha256} {size} {path} {url}"


def files(models_dir):
    """Returns all files of the folder, without the lock."""
    paths = (path for path in models_dir.rglob("*") if path.is_file() and path.name != ".fetch.lock")
    return sorted(str(path.relative_to(models_dir)) for path in paths)


def leave_part(models_dir, content):
    """Leaves a part, as an interrupted run does."""
    part = models_dir / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


# Behaviours


def start_of(request):
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


async def plain(request, content=CONTENT):
    start = start_of(request)
    if "Range" not in request.headers:
        return web.Response(body=content)
    if start >= len(content):
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return web.Response(status=206, body=content[start:], headers={"Content-Range": span})


async def other(request):
    """Sends another file of the same size."""
    return await plain(request, OTHER)


async def whole(request):
    """Ignores Range."""
    return web.Response(body=CONTENT)


async def wrong_range(request):
    return web.Response(status=206, body=CONTENT, headers={"Content-Range": "bytes 0-299999/300000"})


async def begin(request, announced, sent, content=CONTENT):
    """Sends the head of a response, and the next `sent` bytes of the file."""
    start = start_of(request)
    response = web.StreamResponse(status=206 if start else 200)
    if start:
        response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    if announced is not None:
        response.content_length = announced
    await response.prepare(request)
    await response.write(content[start : start + sent])
    return response


def truncates(content=CONTENT):
    """Drops the connection after 100,000 bytes."""

    async def behave(request):
        response = await begin(request, len(content) - start_of(request), 100_000, content)
        await asyncio.sleep(0.05)  # so that the bytes are sent
        request.transport.abort()
        return response

    return behave


async def stalls(request):
    """Sends 100,000 bytes, then nothing until the client disconnects."""
    response = await begin(request, SIZE - start_of(request), 100_000)
    for _ in range(1000):
        if request.transport is None or request.transport.is_closing():
            break
        await asyncio.sleep(0.02)
    return response


async def trickles(request):
    response = await begin(request, SIZE, 0)
    for position in range(0, 100_000, 1000):
        await asyncio.sleep(0.05)
        await response.write(CONTENT[position : position + 1000])
    return response


async def announces_less(request):
    """Sends 100,000 bytes as if that were the whole file."""
    return await begin(request, 100_000, 100_000)


async def announces_more(request):
    """Sends the whole file, announces more, and disconnects."""
    response = await begin(request, SIZE + 1000, SIZE)
    await asyncio.sleep(0.05)
    request.transport.abort()
    return response


async def never_ends(request):
    response = await begin(request, None, SIZE)
    for _ in range(200):
        await response.write(b"more" * 20_000)
    return response


def status(code, **headers):
    async def behave(_):
        return web.Response(status=code, headers=headers, text="an error page")

    return behave


def redirects(url):
    async def behave(_):
        return web.Response(status=302, headers={"Location": url})

    return behave
