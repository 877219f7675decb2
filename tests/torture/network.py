"""A network that can be cut between any two processes: a gate in front of each server, which knows who knocks.

Owns the gates (TCP proxies at fixed addresses), whose connection each is (found by its local port among the
processes that were named), and which ways are closed. A way is (from, to), both names; a connection from `a` to `b`
needs (a, b) for what it sends and (b, a) for what it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

import psutil

from tests.ports import choose_free_port

CLIENT = "client"
"""Whatever runs in this process."""

Way = tuple[str, str]


@dataclass(eq=False)
class _Passage:
    """One connection through a gate."""

    source: str
    target: str
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]

    def break_off(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Network:
    """Gates, and which ways are closed; `async with` closes all."""

    def __init__(self) -> None:
        self._cut: list[Way] = []
        self._silent: list[Way] = []
        self._changed = asyncio.Event()
        self._passages: set[_Passage] = set()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._processes: dict[str, Callable[[], int]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for passage in list(self._passages):
            passage.break_off()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def name(self, name: str, pid: Callable[[], int]) -> None:
        """Connections made by the process that `pid` returns are those of `name`."""
        self._processes[name] = pid

    async def open_gate(self, target: str, port: int) -> str:
        """The address at which others reach the server of `target`, which listens on loopback at `port`."""
        gate = choose_free_port()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._serve(target, port, reader, writer)
            except (OSError, asyncio.CancelledError):
                writer.transport.abort()
            finally:
                self._tasks.discard(task)

        self._servers.append(await asyncio.start_server(serve, "127.0.0.1", gate))
        return f"127.0.0.1:{gate}"

    def cut(self, ways: Iterable[Way]) -> None:
        """Break the connections that need these ways, and let none be made."""
        self._cut += ways
        for passage in list(self._passages):
            if self._is_cut(passage.source, passage.target):
                passage.break_off()

    def silence(self, ways: Iterable[Way]) -> None:
        """Let nothing through any more; what was sent waits."""
        self._silent += ways

    def heal(self, ways: Iterable[Way]) -> None:
        """Undo one `cut` or `silence` of each of these ways."""
        for way in ways:
            for closed in (self._cut, self._silent):
                if way in closed:
                    closed.remove(way)
                    break
        self._changed.set()
        self._changed = asyncio.Event()

    def _is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cut or (target, source) in self._cut

    def _source(self, port: int) -> str:
        """Whose connection from this local port is."""
        for name, pid in self._processes.items():
            with contextlib.suppress(psutil.Error, AssertionError):
                if (number := pid()) != os.getpid():
                    connections = psutil.Process(number).net_connections("tcp4")
                    if any(one.laddr and one.laddr.port == port for one in connections):
                        return name
        return CLIENT

    async def _serve(
        self, target: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        source = self._source(writer.get_extra_info("peername")[1])
        while (source, target) in self._silent:  # a lost SYN: neither accepted nor refused
            await self._changed.wait()
        if self._is_cut(source, target):
            writer.transport.abort()
            return
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
        passage = _Passage(source, target, (writer, downstream))
        self._passages.add(passage)
        try:
            await asyncio.gather(
                self._pump(reader, downstream, (source, target)),
                self._pump(upstream, writer, (target, source)),
            )
        finally:
            passage.break_off()
            self._passages.discard(passage)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: Way) -> None:
        try:
            while data := await source.read(65536):
                while way in self._silent:
                    await self._changed.wait()
                sink.write(data)
                await sink.drain()
        finally:
            sink.transport.abort()
