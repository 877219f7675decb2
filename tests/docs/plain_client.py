"""A client written from docs/protocol.md alone: a socket, four bytes of length, msgpack. Nothing of pubsub is used."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec


def size_of(payloads: list[bytes | None], keys: list[Any] | None, headers: list[Any] | None, n: int) -> int:
    """The size of message `n` of a batch, as section 7 counts it."""
    return len(payloads[n] or b"") + sum(
        len(column[n] or "") for column in (keys, headers) if column is not None
    )


class PlainClient:
    """Frames are plain lists: the type number, then the fields."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.last_id = 0

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def send(self, *frame: Any) -> None:
        payload = msgspec.msgpack.encode(list(frame))
        self.writer.write(len(payload).to_bytes(4, "big") + payload)

    async def receive(self) -> list[Any]:
        async with asyncio.timeout(10):
            length = int.from_bytes(await self.reader.readexactly(4), "big")
            frame = msgspec.msgpack.decode(await self.reader.readexactly(length))
        assert isinstance(frame, list)
        return frame

    async def hello(self) -> list[Any]:
        self.send(1, "pubsub", 1, 0, "a plain client 1", "client", "")
        return await self.receive()

    async def ask(self, kind: int, *fields: Any) -> list[Any]:
        """Send a request; the next frame must be its reply."""
        self.send(kind, request := self.next_id(), *fields)
        reply = await self.receive()
        assert reply[1] == request, f"expected the reply to request {request}, got {reply}"
        return reply

    async def payloads_until(self, count: int) -> list[bytes]:
        """Receive deliveries until so many messages have come."""
        payloads: list[bytes] = []
        while len(payloads) < count:
            frame = await self.receive()
            assert frame[0] == 14
            payloads += frame[2][5]
        return payloads
