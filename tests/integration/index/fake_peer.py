"""A peer as an index sees it: a server that holds copies in memory, and a link on which it registers."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec

from pubsub.config import Limits
from pubsub.errors import ConflictError, PubsubError, TopicNotFoundError
from pubsub.index import IndexServer
from pubsub.index.clock import now_us
from pubsub.model import Address, TopicInfo
from pubsub.net.link import Link, connect
from pubsub.net.server import Server, ServerConnection
from pubsub.policy import change_record
from pubsub.protocol import messages as m
from pubsub.protocol.handshake import hello
from tests.waiting import wait_until

REPLY_SECONDS = 10.0


class FakePeer:
    """Serves what an index asks of a peer; `link` is its own connection to the index."""

    def __init__(self, name: str, *, node: str | None = None, starts: int = 1) -> None:
        self.name = name
        self.node = node or secrets.token_hex(16)
        self.starts = starts
        self.started_us = now_us()
        self.copies: dict[int, m.CopyState] = {}
        self.published: list[m.Publish] = []
        self.refusal: PubsubError | None = None
        """Raised in place of making a copy."""
        self.gate = asyncio.Event()
        """While it is not set, no request of the index is answered."""
        self.gate.set()
        self.link: Link | None = None
        self.dropped: list[int] = []
        self.ends: dict[int, int] = {}
        """Topic id -> where its log ends; 0 where nothing is said."""
        self.promised: dict[int, int] = {}
        self.unsound: set[int] = set()
        self.told: list[m.CopyState] = []
        """All that it was told to hold, in order."""
        self.server = Server(self, "peer", Limits())
        self.immediate = {m.Publish: self._publish}
        self.requests: dict[type, Callable[[ServerConnection, Any], Awaitable[m.Frame]]] = {
            m.CreateCopy: self._create_copy,
            m.DropCopy: self._drop_copy,
            m.Held: self._held,
            m.Query: self._query,
            m.CopyEnds: self._copy_ends,
            m.HandOver: self._hand_over,
            m.SetPolicy: self._set_policy,
        }

    @property
    def incarnation(self) -> str:
        return f"{self.node}.{self.starts}"

    @property
    def address(self) -> Address:
        assert self.server.address is not None
        return self.server.address

    def welcome(self) -> m.Welcome:
        return m.Welcome(
            major=m.PROTOCOL_MAJOR,
            minor=m.PROTOCOL_MINOR,
            software="fake",
            role="peer",
            name=self.name,
            incarnation=self.incarnation,
            frame_bytes=1 << 24,
            message_bytes=1 << 20,
        )

    def hold_up(self, kind: type, *gates: asyncio.Event) -> list[Any]:
        """Have the first requests of this type wait, each for its gate; returns those that have come, as they come."""
        answer, waiting, come = self.requests[kind], list(gates), []

        async def answer_later(connection: ServerConnection, frame: Any) -> m.Frame:
            come.append(frame)
            if waiting:
                await waiting.pop(0).wait()
            return await answer(connection, frame)

        self.requests[kind] = answer_later
        return come

    # What the index asks

    async def _create_copy(self, connection: ServerConnection, frame: m.CreateCopy) -> m.Done:
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        copy = frame.copy
        self.told.append(copy)
        if copy.role == "owner" and copy.epoch < self.promised.get(copy.id, 0):
            raise ConflictError("a newer epoch was promised", highest_epoch=self.promised[copy.id])
        self.hold(copy)
        return m.Done(frame.id)

    def hold(self, copy: m.CopyState) -> None:
        """Take in what the registry says of a topic, unless something newer is known."""
        held = self.copies.get(copy.id)
        if held is None or _order(held) <= _order(copy):
            self.copies[copy.id] = copy

    async def _drop_copy(self, connection: ServerConnection, frame: m.DropCopy) -> m.Done:
        await self.gate.wait()
        held = self.copies.get(frame.topic_id)
        if frame.epoch == 0 or held is None or _order(held) < (frame.epoch, frame.version):
            self.copies.pop(frame.topic_id, None)
            self.dropped.append(frame.topic_id)
        return m.Done(frame.id)

    async def _copy_ends(self, connection: ServerConnection, frame: m.CopyEnds) -> m.CopyEndList:
        await self.gate.wait()
        held = [self.copies[topic_id] for topic_id in frame.topic_ids if topic_id in self.copies]
        return m.CopyEndList(frame.id, [self._end(copy, frame.promise) for copy in held])

    def _end(self, copy: m.CopyState, promise: int) -> m.CopyEnd:
        highest = max(copy.epoch, self.promised.get(copy.id, 0))
        if promise > highest:
            highest = self.promised[copy.id] = promise
        elif promise:
            highest = max(highest, promise + 1)  # not promised
        end = self.ends.get(copy.id, 0)
        return m.CopyEnd(
            topic_id=copy.id,
            last_epoch=copy.epoch if end else 0,
            highest_epoch=highest,
            next_offset=end,
            committed=0,
            sound=copy.id not in self.unsound,
            config_epoch=copy.epoch,
            config_version=copy.version,
            replicas=copy.replicas,
            min_in_sync=len(copy.replicas) // 2 + 1 if len(copy.replicas) > 2 else 1,
        )

    async def _hand_over(self, connection: ServerConnection, frame: m.HandOver) -> m.Done:
        await self.gate.wait()
        copy = self.copies[frame.topic_id]
        if not (await self.propose(copy.topic, copy.in_sync, owner=frame.to)).applied:
            raise ConflictError("not handed over")
        return m.Done(frame.id)

    async def _set_policy(self, connection: ServerConnection, frame: m.SetPolicy) -> m.TopicList:
        copy = self.held(frame.topic)
        self.copies[copy.id] = msgspec.structs.replace(copy, policy=change_record(copy.policy, frame.policy))
        return m.TopicList(frame.id, [])

    async def _held(self, connection: ServerConnection, frame: m.Held) -> m.TopicList:
        await self.gate.wait()
        topics = [
            TopicInfo(
                topic=copy.topic,
                id=copy.id,
                owner=copy.owner,
                epoch=copy.epoch,
                online=True,
                first_offset=10,
                next_offset=copy.id % 1000 + 10,
                read_only="disk full",
            )
            for copy in self.copies.values()
            if frame.topics is None or copy.topic in frame.topics
        ]
        return m.TopicList(frame.id, topics)

    async def _query(self, connection: ServerConnection, frame: m.Query) -> m.QueryResult:
        await self.gate.wait()
        batch = m.Batch(3, None, 5, None, None, [b"x"] * frame.limit)
        return m.QueryResult(id=frame.id, topic_id=frame.topic_id, batch=batch, position=4, next_offset=4)

    def _publish(self, connection: ServerConnection, frame: m.Publish) -> None:
        if frame.topic_id not in self.copies:
            connection.refuse(frame.id, TopicNotFoundError(f"no topic {frame.topic} here"))
            return
        self.published.append(frame)
        if self.gate.is_set():
            connection.send_frame(m.Published(frame.id, frame.sequence))

    # What it asks of the index

    async def start(self, index: IndexServer | None = None) -> None:
        """Serve, and connect to an index."""
        await self.server.listen(Address("127.0.0.1", 0))
        if index is not None:
            await self.connect(index)

    async def connect(self, index: IndexServer) -> None:
        self.link = await connect(index.address, hello("peer", self.name), Limits())

    async def ask(self, kind: type, **fields: Any) -> Any:
        """Send a request of this type to the index; returns the reply or raises its error."""
        assert self.link is not None
        return await self.link.request(kind(id=self.link.next_id(), **fields), REPLY_SECONDS)

    async def register(self, **changes: Any) -> m.Registered:
        fields = {
            "name": self.name,
            "address": str(self.address),
            "incarnation": self.incarnation,
            "software": "0.0.1",
            "started_us": self.started_us,
        }
        return cast(m.Registered, await self.ask(m.Register, **fields | changes))

    async def beat(self, load: dict[str, float] | None = None, **fields: Any) -> bool:
        """Send a heartbeat; returns whether the registry knows this peer."""
        reply = await self.ask(
            m.Heartbeat, name=self.name, incarnation=self.incarnation, load=load or {}, **fields
        )
        return cast(m.HeartbeatReply, reply).known

    async def announce(self, copies: Sequence[m.CopyState] | None = None) -> m.Reconciled:
        held = list(self.copies.values()) if copies is None else copies
        reply = await self.ask(m.Announce, name=self.name, incarnation=self.incarnation, copies=held)
        return cast(m.Reconciled, reply)

    async def until_held(self, topic_id: int, role: str = "") -> m.CopyState:
        """The copy of this topic, once it is held, in this role."""

        def found() -> m.CopyState | None:
            copy = self.copies.get(topic_id)
            return copy if copy is not None and role in ("", copy.role) else None

        return cast(m.CopyState, await wait_until(found))

    def held(self, topic: str) -> m.CopyState:
        (copy,) = [copy for copy in self.copies.values() if copy.topic == topic]
        return copy

    async def propose(self, topic: str, in_sync: Sequence[str], **fields: Any) -> m.Proposed:
        """Propose as the owner that one is; take in what comes of it."""
        copy = self.held(topic)
        made = {"epoch": copy.epoch, "version": copy.version, "topic_id": copy.id}
        reply = await self.ask(
            m.Propose,
            name=self.name,
            incarnation=self.incarnation,
            topic=topic,
            in_sync=list(in_sync),
            **made | fields,
        )
        if reply.record is not None:
            self.hold(reply.record)
        return cast(m.Proposed, reply)

    async def leave(self) -> m.Done:
        return cast(m.Done, await self.ask(m.Leave, name=self.name, incarnation=self.incarnation))

    async def live(self, ttl_seconds: float) -> None:
        """Send heartbeats, and register anew where one is answered so, for ever."""
        while True:
            await asyncio.sleep(ttl_seconds / 3)
            if not await self.beat():
                await self.register()
                await self.reconcile()

    async def reconcile(self) -> m.Reconciled:
        """Announce, and do what the answer says."""
        reply = await self.announce()
        for copy in reply.create:
            self.hold(copy)
        for copy in (*reply.unwanted, *(self.copies[n] for n in reply.deleted if n in self.copies)):
            self.copies.pop(copy.id, None)
            self.dropped.append(copy.id)
        return reply

    @asynccontextmanager
    async def living(self, ttl_seconds: float) -> AsyncIterator[None]:
        """`live` meanwhile."""
        task = asyncio.create_task(self.live(ttl_seconds), name=f"{self.name} lives")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Go without a goodbye."""
        self.gate.set()
        if self.link is not None:
            self.link.close()
            await self.link.closed()
        await self.server.close(0.1)


def _order(copy: m.CopyState) -> tuple[int, int]:
    return copy.epoch, copy.version


def a_copy(topic: str = "t", topic_id: int = 7, **fields: Any) -> m.CopyState:
    made = {"role": "owner", "owner": "alice", "epoch": 1, "created_us": now_us()}
    return m.CopyState(topic=topic, id=topic_id, **made | fields)
