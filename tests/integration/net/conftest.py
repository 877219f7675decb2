"""A tiny service on a real server, a raw client that sends whatever bytes it is told to, and both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop

from pubsub.config import KIB, Limits
from pubsub.errors import TopicNotFoundError
from pubsub.model import Address
from pubsub.net.link import Link, connect
from pubsub.net.server import Server, ServerConnection
from pubsub.protocol import messages as m
from pubsub.protocol.codec import decode_frame, encode_frame
from pubsub.protocol.handshake import hello

ANYWHERE = Address("127.0.0.1", 0)
GREETING = hello("client", "test")
LIMITS = Limits(
    frame_bytes=65 * KIB,
    message_bytes=KIB,
    hello_seconds=0.2,
    write_buffer_bytes=16 * KIB,
    running_requests=4,
)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test here runs once on each loop."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class TinyService:
    """Answers Publish at once, Lookup with an error, Query with a large reply; Status waits for `gate`."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = 0
        self.most_waiting = 0
        self.large_replies = 0
        self.published: list[int] = []
        self.incarnation = "x.1"

    def welcome(self) -> m.Welcome:
        return m.Welcome(
            major=m.PROTOCOL_MAJOR,
            minor=m.PROTOCOL_MINOR,
            software="tiny",
            role="peer",
            name="tiny",
            incarnation=self.incarnation,
            frame_bytes=LIMITS.frame_bytes,
            message_bytes=LIMITS.message_bytes,
        )

    @property
    def immediate(self) -> dict[type, Callable[[ServerConnection, Any], None]]:
        return {m.Publish: self.on_publish, m.Credit: lambda connection, frame: None}

    @property
    def requests(self) -> dict[type, Callable[[ServerConnection, Any], Awaitable[m.Frame | list[m.Frame]]]]:
        return {
            m.Status: self.on_status,
            m.Lookup: self.on_lookup,
            m.Query: self.on_query,
            m.Topics: self.on_topics,
            m.Peers: self.on_peers,
        }

    def on_publish(self, connection: ServerConnection, frame: m.Publish) -> None:
        self.published.append(frame.sequence)
        connection.send_frame(m.Published(frame.id, frame.sequence))

    async def on_status(self, connection: ServerConnection, frame: m.Status) -> m.Frame:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        return m.StatusReport(frame.id, {"n": frame.id})

    async def on_lookup(self, connection: ServerConnection, frame: m.Lookup) -> m.Frame:
        raise TopicNotFoundError(f"no topic {frame.topic}", id=7)

    async def on_query(self, connection: ServerConnection, frame: m.Query) -> m.Frame:
        self.large_replies += 1
        batch = m.Batch(0, None, 0, None, None, [b"x" * 60 * KIB])
        return m.QueryResult(id=frame.id, topic_id=1, batch=batch, position=1, next_offset=1)

    async def on_topics(self, connection: ServerConnection, frame: m.Topics) -> list[m.Frame]:
        return [
            m.TopicList(frame.id, [], more=True),
            m.TopicList(frame.id, [], more=True),
            m.TopicList(frame.id, []),
        ]

    async def on_peers(self, connection: ServerConnection, frame: m.Peers) -> m.Frame:
        raise ZeroDivisionError("a fault")


@pytest.fixture
async def service() -> TinyService:
    return TinyService()


@pytest.fixture
async def server(service: TinyService) -> AsyncIterator[Server]:
    server = Server(service, "peer", LIMITS)
    await server.listen(ANYWHERE)
    yield server
    service.gate.set()
    await server.close(1.0)


def address_of(server: Server) -> Address:
    assert server.address is not None
    return server.address


@pytest.fixture
async def link(server: Server) -> AsyncIterator[Link]:
    link = await connect(address_of(server), GREETING, LIMITS)
    yield link
    link.abort()
    await link.closed()


class RawClient:
    """A socket that sends bytes and reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *frames: m.Frame | bytes) -> None:
        for frame in frames:
            self.writer.write(frame if isinstance(frame, bytes) else encode_frame(frame))

    async def receive(self) -> m.Frame | None:
        """The next frame, or None when the server has closed its end."""
        async with asyncio.timeout(10):
            head = await self.reader.read(4)
            if not head:
                return None
            head += await self.reader.readexactly(4 - len(head))
            (length,) = struct.unpack(">I", head)
            return decode_frame(await self.reader.readexactly(length))

    async def received_until_closed(self) -> list[m.Frame]:
        frames = []
        while (frame := await self.receive()) is not None:
            frames.append(frame)
        return frames


@pytest.fixture
async def dial(server: Server) -> AsyncIterator[Callable[..., Awaitable[RawClient]]]:
    """Connects a raw client; says hello unless told not to."""
    clients: list[RawClient] = []

    async def dial(greet: bool = True) -> RawClient:
        address = address_of(server)
        client = RawClient(*await asyncio.open_connection(address.host, address.port))
        clients.append(client)
        if greet:
            client.send(GREETING)
            assert isinstance(await client.receive(), m.Welcome)
        return client

    yield dial
    for client in clients:
        client.writer.close()
        with contextlib.suppress(OSError):
            await client.writer.wait_closed()
