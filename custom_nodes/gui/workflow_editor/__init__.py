# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens a stored workflow in ComfyUI's GUI and saves it back; only scripts/gui loads this pack.

The work is done by `layerdiffuse-alpha workflow open` and `save`, which run in their own environment.
"""

import asyncio
import os

from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

LOOPBACK = "127.0.0.1"
ROUTE = "/layerdiffuse_alpha/workflow"

NODE_CLASS_MAPPINGS: dict[str, type] = {}


async def _run(command: str, body: bytes = b"") -> web.Response:
    """Returns what the program prints, which is JSON; if it fails, what it says, with status 500."""
    process = await asyncio.create_subprocess_exec(
        os.environ["WORKFLOW_EDITOR_PROGRAM"],
        "workflow",
        command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaints = await process.communicate(body)
    if process.returncode != 0:
        return web.Response(status=500, body=complaints, content_type="text/plain")
    return web.Response(body=printed, content_type="application/json")


async def _open(_: web.Request) -> web.Response:
    return await _run("open")


async def _save(request: web.Request) -> web.Response:
    return await _run("save", await request.read())


if args.listen == LOOPBACK and "WORKFLOW_EDITOR_PROGRAM" in os.environ:
    WEB_DIRECTORY = "./js"
    PromptServer.instance.routes.get(ROUTE)(_open)
    PromptServer.instance.routes.post(ROUTE)(_save)
