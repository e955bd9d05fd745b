"""An aiohttp application that is served on a loopback port, from a thread, during a `with` block."""

import asyncio
import threading

from aiohttp import web


class LoopbackServer:
    """Subclasses define `routes()`; `address` is `127.0.0.1:port` during the block."""

    address = ""

    def routes(self) -> list[web.RouteDef]:
        raise AssertionError("a server without routes")

    def __enter__(self):
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _serve(self, ready):
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=50_000_000)
        app.add_routes(self.routes())
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        host, port = runner.addresses[0]
        self.address = f"{host}:{port}"
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
