"""An owner that does what a test tells it, for the client's end of groups: what it gives, answers, and was sent."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from pubsub.config import Limits
from pubsub.errors import GroupNotFoundError, PubsubError
from pubsub.model import Address, GroupInfo, TopicInfo
from pubsub.net.server import ImmediateHandler, RequestHandler, Server, ServerConnection
from pubsub.protocol import messages as m

OPTIONS = {"lease_seconds": 30.0, "max_attempts": 5, "backoff_seconds": 1.0, "ordered": False}


class FakeOwner:
    """Owns every topic, under the id 7. It is index and peer in one."""

    def __init__(self) -> None:
        self.address = ""
        """Where it says that the topics are; a test may put a proxy there."""
        self.options: dict[str, Any] = dict(OPTIONS)
        self.joins: list[m.JoinGroup] = []
        self.settles: list[m.Settle] = []
        self.frames: list[str] = []
        """What came, in order: how each settle settles, and "leave"."""
        self.late: set[tuple[int, int]] = set()
        """Offset and attempt that are late."""
        self.refusals: list[PubsubError] = []
        """Errors with which the next settles are answered."""
        self.answering = asyncio.Event()
        """While it is not set, settles wait for their answer."""
        self.answering.set()
        self.changes: list[m.ChangeGroup] = []
        self.groups: list[GroupInfo] = []
        self.connection: ServerConnection | None = None
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {
            m.Lookup: self.on_lookup,
            m.JoinGroup: self.on_join,
            m.Settle: self.on_settle,
            m.Unsubscribe: self.on_unsubscribe,
            m.Groups: self.on_groups,
            m.ChangeGroup: self.on_change,
            m.PeekGroup: self.on_peek,
        }
        self._server = Server(self, "peer", Limits())

    async def __aenter__(self) -> Self:
        self.address = str(await self._server.listen(Address("127.0.0.1", 0)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.answering.set()
        await self._server.close(1.0)

    def welcome(self) -> m.Welcome:
        return m.Welcome(
            major=m.PROTOCOL_MAJOR,
            minor=m.PROTOCOL_MINOR,
            software="fake",
            role="peer",
            name="fake",
            incarnation="x.1",
            frame_bytes=Limits().frame_bytes,
            message_bytes=Limits().message_bytes,
        )

    # What a test does

    def give(self, *deliveries: tuple[int, int]) -> None:
        """Give the member that joined last these (offset, attempt)."""
        assert self.connection is not None
        offsets = [offset for offset, _ in deliveries]
        batch = m.Batch(
            offsets[0],
            offsets,
            1_000_000,
            None,
            None,
            [b"%d" % offset for offset in offsets],
            [attempt for _, attempt in deliveries],
        )
        self.connection.send_frame(m.Deliver(self.joins[-1].subscription, batch))

    def end(self, error: PubsubError) -> None:
        """End the stream of the member that joined last."""
        assert self.connection is not None
        self.connection.send_frame(m.Ended(self.joins[-1].subscription, error.code, error.message))

    def cut(self) -> None:
        """Break the connection of the member that joined last."""
        assert self.connection is not None
        self.connection.abort()

    def settled(self, how: str) -> list[list[int]]:
        """The offsets of each frame that settles so."""
        return [frame.offsets for frame in self.settles if frame.how == how]

    # What it serves

    async def on_lookup(self, connection: ServerConnection, frame: m.Lookup) -> m.Frame:
        info = TopicInfo(topic=frame.topic, id=7, owner="fake", address=self.address, epoch=1, online=True)
        return m.TopicList(frame.id, [info])

    async def on_join(self, connection: ServerConnection, frame: m.JoinGroup) -> m.Frame:
        self.joins.append(frame)
        self.connection = connection
        return m.Joined(id=frame.id, topic_id=7, epoch=1, options=self.options)

    async def on_settle(self, connection: ServerConnection, frame: m.Settle) -> m.Frame:
        self.settles.append(frame)
        self.frames.append(frame.how)
        await self.answering.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        pairs = zip(frame.offsets, frame.attempts, strict=True)
        return m.Settled(frame.id, [offset for offset, attempt in pairs if (offset, attempt) in self.late])

    async def on_unsubscribe(self, connection: ServerConnection, frame: m.Unsubscribe) -> m.Frame:
        self.frames.append("leave")
        return m.Done(frame.id)

    async def on_groups(self, connection: ServerConnection, frame: m.Groups) -> m.Frame:
        found = [info for info in self.groups if frame.group in ("", info.group)]
        return m.GroupList(frame.id, found)

    async def on_change(self, connection: ServerConnection, frame: m.ChangeGroup) -> m.Frame:
        if self.refusals:
            raise self.refusals.pop(0)
        if frame.group == "unknown":
            raise GroupNotFoundError(f"topic {frame.topic} has no group {frame.group}")
        self.changes.append(frame)
        return m.Done(frame.id, "noted")

    async def on_peek(self, connection: ServerConnection, frame: m.PeekGroup) -> m.Frame:
        batch = m.Batch(3, None, 1, None, None, [b"x"] * frame.limit, [0] * frame.limit)
        return m.QueryResult(id=frame.id, topic_id=7, batch=batch, position=4, next_offset=9)
