"""Members of groups on connections of their own, and what is looked at of groups: for tests of a peer."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pubsub
from pubsub.model import GroupInfo, Message
from pubsub.net.link import Link
from pubsub.peer.group_supply import offsets_of
from pubsub.protocol import messages as m
from tests.waiting import wait_until

SECONDS = 10.0
TOPIC = "jobs"
AT_ONCE = {"backoff_seconds": 0}

OpenPeer = Callable[..., Awaitable[pubsub.Peer]]


class Member:
    """A member of a group on a connection of its own."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.number = link.next_subscription()
        self.got: list[tuple[int, int]] = []
        """(offset, attempt) of all that was delivered."""
        self.payloads: dict[int, bytes | None] = {}
        self.ended: m.Ended | None = None
        self.joined: m.Joined | None = None
        link.streams[self.number] = self._on_frame

    def _on_frame(self, frame: m.Deliver | m.Ended) -> None:
        if isinstance(frame, m.Ended):
            self.ended = frame
            return
        attempts = frame.batch.attempts
        assert attempts is not None
        offsets = list(offsets_of(frame.batch))
        self.got += zip(offsets, attempts, strict=True)
        self.payloads |= zip(offsets, frame.batch.payloads, strict=True)

    async def join(self, max_in_flight: int = 100, group: str = "g", **fields: Any) -> Member:
        frame = m.JoinGroup(
            id=self.link.next_id(),
            subscription=self.number,
            topic=fields.pop("topic", TOPIC),
            group=group,
            max_in_flight=max_in_flight,
            window_bytes=fields.pop("window_bytes", 1 << 30),
            **fields,
        )
        reply = await self.link.request(frame, SECONDS)
        assert isinstance(reply, m.Joined)
        self.joined = reply
        return self

    async def settle(self, how: str, *deliveries: tuple[int, int], delay_us: int = -1) -> list[int]:
        """Settle deliveries; returns the offsets that are late."""
        frame = m.Settle(
            id=self.link.next_id(),
            subscription=self.number,
            how=how,
            offsets=[offset for offset, _ in deliveries],
            attempts=[attempt for _, attempt in deliveries],
            delay_us=delay_us,
        )
        reply = await self.link.request(frame, SECONDS)
        assert isinstance(reply, m.Settled)
        return reply.late

    async def leave(self) -> None:
        await self.link.request(m.Unsubscribe(self.link.next_id(), self.number), SECONDS)

    async def has(self, *deliveries: tuple[int, int]) -> None:
        """Wait until exactly these were delivered, in whatever order."""
        await wait_until(lambda: len(self.got) >= len(deliveries), description=f"{deliveries}")
        assert sorted(self.got) == sorted(deliveries)


async def subscribe(member: Member, number: int) -> m.Frame:
    """Ask for a reader on the connection of a member, from a time on: the disk is asked where that is."""
    frame = m.Subscribe(
        id=member.link.next_id(),
        subscription=number,
        topic=TOPIC,
        start=m.AT_TIME,
        at_us=1,
        window_messages=1,
        window_bytes=1,
    )
    return await member.link.request(frame, SECONDS)


OpenMember = Callable[..., Awaitable[Member]]


async def publish(peer: pubsub.Peer, how_many: int, first: int = 0, keys: list[str] | None = None) -> None:
    await peer.publish_many(
        TOPIC,
        [
            pubsub.NewMessage(b"%d" % (first + n), key=keys[n] if keys is not None else None)
            for n in range(how_many)
        ],
    )


async def info(peer: pubsub.Peer, group: str = "g", topic: str = TOPIC) -> GroupInfo:
    return await peer.group(topic, group)


async def figures(peer: pubsub.Peer, **settings: str) -> tuple[int, int, int, int, int]:
    """ready, in flight, delayed, dead, lag."""
    now = await info(peer, **settings)
    return now.ready, now.in_flight, now.delayed, now.dead, now.lag


def rows(peer: pubsub.Peer, query: str) -> list[tuple[Any, ...]]:
    """What the file says, as it is on disk."""
    assert peer._store is not None
    with contextlib.closing(sqlite3.connect(f"file:{peer._store.path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


ENTRIES = "SELECT offset, state, attempts, member FROM group_messages ORDER BY offset"


async def dead_letter(peer: pubsub.Peer, topic: str = TOPIC) -> Message:
    await wait_until(lambda: f"{topic}.dead" in peer._node.store.topics)
    (letter,) = await wait_until(lambda: peer.query(f"{topic}.dead"))
    return letter


async def kill(peer: pubsub.Peer, member: Member, how_many: int) -> None:
    """Publish messages and have all of them become dead letters."""
    await member.join(options=AT_ONCE | {"max_attempts": 1})
    await publish(peer, how_many)
    await wait_until(lambda: len(member.got) == how_many)
    await member.settle("nack", *member.got)
    await wait_until(lambda: f"{TOPIC}.dead" in peer._node.store.topics)
    await wait_until(lambda: has_dead(peer, how_many))
    await member.leave()


async def has_dead(peer: pubsub.Peer, how_many: int) -> bool:
    return len(await peer.query(f"{TOPIC}.dead")) == how_many


async def retain(peer: pubsub.Peer, keep_from: int, topic_name: str = TOPIC) -> None:
    """Have retention take the messages before an offset."""
    topic = peer._node.store.topics[topic_name]
    assert peer._store is not None
    await peer._store.step(
        lambda cursor: cursor.execute(
            "DELETE FROM messages WHERE topic_id = ? AND offset < ?", (topic.id, keep_from)
        ),
        0,
    )
    await peer._store.step(
        lambda cursor: cursor.execute(
            "UPDATE topics SET messages = messages - ? + first_offset, first_offset = ? WHERE id = ?",
            (keep_from, keep_from, topic.id),
        ),
        0,
    )
    topic.messages -= keep_from - topic.first_offset
    topic.first_offset = keep_from
    await peer._node.groups.on_first_offset(topic)
