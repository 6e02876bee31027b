"""A web server on this machine that serves a folder, counts what it sends, and can misbehave."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

from aiohttp import web


class Server:
    """The requests handled by a web server for the files of a folder.

    url: URL of the folder.
    num_bytes_sent: dictionary from file name to the number of bytes sent.
    num_requests: dictionary from file name to the number of requests.
    behaviour: dictionary from file name to what is sent instead of the file: an int is an HTTP status, bytes
      are a body (any requested range is ignored), and `...` is a body without end, sent until the client
      closes the connection.
    """

    def __init__(self, folder: pathlib.Path):
        self.url = ""
        self.num_bytes_sent: dict[str, int] = {}
        self.num_requests: collections.Counter[str] = collections.Counter()
        self.behaviour: dict[str, Any] = {}
        self._folder = folder

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.num_requests[name] += 1
        odd = self.behaviour.get(name)
        if isinstance(odd, int):
            return web.Response(status=odd)
        if isinstance(odd, bytes):  # the whole body, even if a range is requested
            return web.Response(body=odd)
        if odd is ...:
            return await self._send_without_end(name, request)
        path = self._folder / name
        if not path.is_file():
            return web.Response(status=404)
        if request.method == "GET":
            wanted = request.http_range
            size = path.stat().st_size
            stop = size if wanted.stop is None else min(wanted.stop, size)
            self.num_bytes_sent[name] = self.num_bytes_sent.get(name, 0) + stop - (wanted.start or 0)
        return web.FileResponse(path)

    async def _send_without_end(self, name: str, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.method == "GET":
            with contextlib.suppress(ConnectionError):
                while True:
                    await response.write(bytes(1 << 16))
                    self.num_bytes_sent[name] = self.num_bytes_sent.get(name, 0) + (1 << 16)
        return response


@contextlib.contextmanager
def serving(folder: pathlib.Path, port: int = 0) -> Iterator[Server]:
    """Serves a folder's files on a port of this machine while the block runs; 0 takes a free port."""
    server, loop = Server(folder), asyncio.new_event_loop()
    app = web.Application()
    app.router.add_get("/{name}", server.handle)  # HEAD too
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    server.url = f"http://127.0.0.1:{loop.run_until_complete(start())}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
