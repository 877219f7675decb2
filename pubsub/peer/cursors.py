"""Durable subscriptions: whose cursor is here, where it stands, who reads by it, and how far all of them are.

A cursor is kept by whoever has a disk: that of a client by the topic's owner, that of a peer in the peer's own
file, whoever owns the topic. Of the latter the owner is told, and notes it as NAME@PEER, so that retention does not
overtake it; the note never runs ahead of the cursor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pubsub.errors import (
    InvalidRequestError,
    OffsetOutOfRangeError,
    PubsubError,
    SubscriptionNotFoundError,
    SubscriptionTakenError,
)
from pubsub.model import CursorInfo, check_durable_name, check_subscription_name, iso_from_us
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.positions import find_position
from pubsub.protocol import messages as m
from pubsub.storage.cursors import CURSORS_OF_A_TOPIC, Cursor
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

CURSORS_IN_A_FRAME = CURSORS_OF_A_TOPIC
"""So that those of one topic are one frame."""

Ending = Callable[[PubsubError], None]
"""Ends a subscription with an error."""


class Taken(NamedTuple):
    """Where a durable subscription begins that was taken up."""

    position: int
    skipped: int
    generation: int


class Cursors:
    """Serves CommitCursor, Cursors and ChangeCursor."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._own: dict[tuple[int, str], Ending] = {}
        """Subscriptions of this peer to topics of others that read by a cursor in our file."""
        self.immediate: dict[type, ImmediateHandler] = {m.CommitCursor: self.on_commit}
        self.requests: dict[type, RequestHandler] = {
            m.Cursors: self.on_cursors,
            m.ChangeCursor: self.on_change,
        }

    def floor(self, topic: Topic) -> int | None:
        """The lowest position of a topic's durable subscriptions, as far as we know; None if it has none."""
        return self._node.store.cursors.floor(topic.id)

    # Taking up

    async def take(self, topic: Topic, frame: m.Subscribe) -> Taken:
        """Take up a durable subscription to a topic that this peer owns.

        Whoever read by it before is ended. Nothing may be awaited before the new delivery has started.

        Raises:
            SubscriptionTakenError, SubscriptionNotFoundError: it cannot be gone on with after a lost connection.
            OffsetOutOfRangeError: the log does not reach to, or no longer has, its position.
        """
        store, name = self._node.store, check_durable_name(frame.durable)
        if frame.generation:
            position = await find_position(store, topic, frame.start, 0, skip_lost=frame.skip_lost)
            store.cursors.current(topic.id, name, frame.generation)
            self._end(topic, name, None)  # a connection of the same subscriber that we take for alive
            return Taken(position, position - frame.start, frame.generation)
        cursor = store.cursors.find(topic.id, name)
        start = frame.start if cursor is None else cursor.position
        position = await find_position(store, topic, start, frame.at_us, skip_lost=frame.skip_lost)
        cursor = await store.cursors.take(
            topic.id, topic.name, name, position if cursor is None else cursor.position
        )
        self._end(
            topic,
            name,
            SubscriptionTakenError(f"the durable subscription {name} was taken up by another subscriber"),
        )
        position = max(cursor.position, topic.first_offset) if frame.skip_lost else cursor.position
        return Taken(position, position - cursor.position, cursor.generation)

    def hold(self, cursor: Cursor, end: Ending) -> None:
        """A subscription of this peer to a topic of another reads by a cursor in our file; the one before is ended."""
        before = self._own.get((cursor.topic_id, cursor.name))
        self._own[cursor.topic_id, cursor.name] = end
        if before is not None:
            before(
                SubscriptionTakenError(
                    f"the durable subscription {cursor.name} was taken up by another subscriber"
                )
            )

    def let_go(self, topic_id: int, name: str, end: Ending) -> None:
        """It reads no more."""
        if self._own.get((topic_id, name)) == end:
            del self._own[topic_id, name]

    def _end(self, topic: Topic, name: str, error: PubsubError | None) -> None:
        for delivery in self._node.deliveries.durable(topic, name):
            delivery.end(error)

    # Committing

    def on_commit(self, connection: ServerConnection, frame: m.CommitCursor) -> None:
        def done(error: PubsubError | None) -> None:
            if error is None:
                connection.send_frame(m.Done(frame.id))
            else:
                connection.refuse(frame.id, error)

        try:
            topic = self._node.served(frame.topic, frame.topic_id)
            check_subscription_name(frame.name)
            _check_position(topic, frame)
        except PubsubError as error:
            done(error)
            return
        cursors = self._node.store.cursors
        if "@" not in frame.name:
            cursors.commit(topic.id, frame.name, frame.generation, frame.position, done)
            return
        cursors.note(
            Cursor(
                topic_id=topic.id,
                name=frame.name,
                topic=topic.name,
                position=frame.position,
                generation=frame.generation,
                updated_us=time.time_ns() // 1000,
            ),
            done,
        )

    # Looking and changing

    async def on_cursors(self, connection: ServerConnection, frame: m.Cursors) -> m.Frame | list[m.Frame]:
        found = [
            await self._info(cursor)
            for cursor in sorted(
                self._node.store.cursors.all(frame.topic), key=lambda cursor: (cursor.topic, cursor.name)
            )
            if self._is_live(cursor)
        ]
        size = CURSORS_IN_A_FRAME
        parts = [found[i : i + size] for i in range(0, len(found), size)] or [[]]
        return [m.CursorList(frame.id, part, number < len(parts)) for number, part in enumerate(parts, 1)]

    async def own(self, topic: str, name: str) -> CursorInfo | None:
        """The subscription `name` of this peer to a topic that lives elsewhere, from our file alone."""
        cursors = self._of_others(topic, name)
        return await self._info(cursors[-1]) if cursors else None

    def has_own(self, topic: str, name: str) -> bool:
        """Whether this peer has a subscription `name` to a topic that lives elsewhere."""
        return bool(self._of_others(topic, name))

    def _of_others(self, topic: str, name: str) -> list[Cursor]:
        """Our cursors of this name for topics of this name that live elsewhere, or did; the latest comes last."""
        held = self._node.store.topics.get(topic)
        if held is not None and held.role == "owner":
            return []
        found = [c for c in self._node.store.cursors.all(topic) if c.name == name and self._is_live(c)]
        return sorted(found, key=lambda cursor: cursor.generation)

    def _is_live(self, cursor: Cursor) -> bool:
        held = self._node.store.by_id.get(cursor.topic_id)
        return held is None or held.set_aside is None

    async def _info(self, cursor: Cursor) -> CursorInfo:
        topic = self._node.store.by_id.get(cursor.topic_id)
        updated_at = iso_from_us(cursor.updated_us)
        if topic is None or topic.role != "owner":
            return CursorInfo(
                topic=cursor.topic,
                subscription=f"{cursor.name}@{self._node.name}",
                position=cursor.position,
                kept_at=self._node.name,
                connected=(cursor.topic_id, cursor.name) in self._own,
                updated_at=updated_at,
            )
        _, _, elsewhere = cursor.name.partition("@")
        return CursorInfo(
            topic=cursor.topic,
            subscription=cursor.name,
            position=cursor.position,
            lag=await self._lag(topic, cursor.position),
            kept_at=elsewhere or self._node.name,
            connected=None if elsewhere else bool(self._node.deliveries.durable(topic, cursor.name)),
            updated_at=updated_at,
        )

    async def _lag(self, topic: Topic, position: int) -> int:
        """How many messages there are from a position on."""
        start = max(position, topic.first_offset)
        holes = topic.messages < topic.next_offset - topic.first_offset  # what compaction took
        if holes and start < topic.committed:
            return await self._node.store.count_from(topic, start)
        return max(0, topic.committed - start)

    async def on_change(self, connection: ServerConnection, frame: m.ChangeCursor) -> m.Frame:
        check_subscription_name(frame.name)
        if frame.how not in ("reset", "delete"):
            raise InvalidRequestError(f"a durable subscription can be reset or deleted, not {frame.how!r}")
        topic = self._node.store.topics.get(frame.topic)
        if topic is not None and topic.role == "owner":
            self._node.check_served(topic)
            cursor = self._node.store.cursors.find(topic.id, frame.name)
            cursors = [] if cursor is None else [cursor]
        else:
            topic, cursors = None, self._of_others(frame.topic, frame.name)
        if not cursors:
            raise SubscriptionNotFoundError(
                f"topic {frame.topic} has no durable subscription {frame.name} at peer {self._node.name}"
            )
        if frame.how == "delete":
            await self._node.store.cursors.delete(cursors)
            for cursor in cursors:
                self._end_readers(topic, cursor, SubscriptionNotFoundError, "was deleted")
        else:
            cursor = cursors[-1]
            if topic is not None:
                position = await find_position(self._node.store, topic, frame.start, frame.at_us)
                self._node.check_served(topic)
            elif frame.start >= 0:
                position = frame.start
            else:
                raise InvalidRequestError(
                    f"peer {self._node.name} does not own topic {frame.topic}: it can reset to an offset only"
                )
            await self._node.store.cursors.reset(cursor, position)
            self._end_readers(topic, cursor, SubscriptionTakenError, f"was reset to offset {position}")
        return m.Done(frame.id)

    def _end_readers(self, topic: Topic | None, cursor: Cursor, kind: type[PubsubError], what: str) -> None:
        error = kind(f"the durable subscription {cursor.name} of topic {cursor.topic} {what}")
        if topic is not None:
            self._end(topic, cursor.name, error)
        own = self._own.pop((cursor.topic_id, cursor.name), None)
        if own is not None:
            own(error)


def _check_position(topic: Topic, frame: m.CommitCursor) -> None:
    if not 0 <= frame.position <= topic.committed:
        raise OffsetOutOfRangeError(
            f"topic {topic.name} has no offset {frame.position} to commit: {topic.committed} is the next one",
            first_offset=topic.first_offset,
            next_offset=topic.committed,
        )
    if not 0 <= frame.generation < 2**63:
        raise InvalidRequestError("a generation is not negative and fits 63 bits")
