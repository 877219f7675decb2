"""A TCP proxy that misbehaves on demand: cuts connections, swallows what the server answers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self


class FaultyProxy:
    """Forwards to `target` (host, port) from a port of its own, until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.swallow_answers = False
        """Nothing of what the server says gets through; requests do."""
        self.connections_made = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break every connection, in both directions, at once."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections_made += 1
        try:
            upstream, downstream = await asyncio.open_connection(*self.target)
            self._writers |= {writer, downstream}
            with contextlib.suppress(OSError):
                await asyncio.gather(
                    self._pump(reader, downstream, False), self._pump(upstream, writer, True)
                )
        except OSError:
            writer.transport.abort()
        except asyncio.CancelledError:
            return  # the proxy ends; asyncio's stream server would report a cancelled task as an error
        finally:
            self._tasks.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while data := await source.read(65536):
                if not (answers and self.swallow_answers):
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.transport.abort()
            self._writers.discard(sink)
