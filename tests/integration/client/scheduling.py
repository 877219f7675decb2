"""What tests of messages for later share: the schedule's clock, moved by hand, and where a message is."""

from __future__ import annotations

import sqlite3
import time

import pubsub

HOUR = 3600


class Clock:
    """The machine's clock as the schedule sees it; moved by hand."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def __call__(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us

    def forward(self, seconds: float) -> None:
        self.ahead_us += round(seconds * 1e6)


async def stored(peer: pubsub.Peer, topic: str = "a.b") -> list[bytes | None]:
    return [message.payload for message in await peer.query(topic, limit=10**6)]


def in_file(peer: pubsub.Peer, topic: str = "a.b") -> int:
    """How many messages are held, as the file has it."""
    topic_id = peer._node.store.topics[topic].id
    with sqlite3.connect(f"file:{peer._node.store.path}?mode=ro", uri=True) as connection:
        query = "SELECT count(*) FROM scheduled WHERE topic_id = ?"
        return int(connection.execute(query, (topic_id,)).fetchone()[0])


def held(peer: pubsub.Peer, topic: str = "a.b") -> int:
    """The same, once the peer believes so too; -1 while it has not heard of the last commit yet."""
    count = in_file(peer, topic)
    return count if peer._node.schedule.count(peer._node.store.topics[topic]) == count else -1
