"""Delivering: each subscription is a position in a topic, moved on whenever something allows it.

What allows it: a commit, credit from the subscriber, room in the connection, a finished read from disk. There
is no task for a subscription that is up to date, and none for a message ever. A subscriber that does not read,
or grants no credit, keeps nothing in memory but the connection's bounded buffer; it is fed from disk later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from pubsub.config import Limits, PeerSettings
from pubsub.core.credit import Window
from pubsub.errors import PubsubError, TopicNotFoundError
from pubsub.net.server import ServerConnection
from pubsub.peer.tail import Tail, TailBudget, cut
from pubsub.protocol.batch import batch_bytes, message_sizes, next_position, slice_batch
from pubsub.protocol.codec import delivery_head, encode_batch
from pubsub.protocol.messages import Batch, Ended
from pubsub.storage.store import Appended, Store
from pubsub.storage.topic import Topic

log = logging.getLogger("pubsub.peer")


class Delivery:
    """One subscription: the stream of a topic to one connection, from `position` on."""

    def __init__(
        self,
        connection: ServerConnection,
        number: int,
        feed: Feed,
        position: int,
        window: Window,
        name: str,
        store: Store,
    ) -> None:
        self.connection = connection
        self.number = number
        self.position = position
        """Offset of the next message to send."""
        self.name = name
        self.since_us = time.time_ns() // 1000
        self.sent_messages = 0
        self._feed = feed
        self._window = window
        self._store = store
        self._reading: asyncio.Task[None] | None = None
        self._ended = False

    def credit(self, messages: int, size_bytes: int) -> None:
        """The subscriber has taken so much."""
        self._window.grant(messages, size_bytes)
        self.pump()

    def pump(self) -> None:
        """Send whatever may be sent now."""
        topic = self._feed.topic
        while (
            self.position < topic.committed
            and self._window.messages > 0
            and self._reading is None
            and self.connection.writable
            and not self._ended
        ):
            piece = self._feed.tail.find(self.position)
            if piece is None:
                self._reading = asyncio.create_task(
                    self._read(), name=f"pubsub: read {topic.name} for {self.connection.remote}"
                )
            elif piece.first == self.position and self._fits(piece.stop - piece.first, piece.size_bytes):
                self._send(piece.encoded, piece.stop - piece.first, piece.size_bytes, piece.stop)
            elif not self._send_part(
                slice_batch(piece.batch, self.position - piece.first, piece.stop - piece.first)
            ):
                return

    def _fits(self, messages: int, size_bytes: int) -> bool:
        return messages <= self._window.messages and size_bytes <= self._window.bytes

    def _send_part(self, batch: Batch) -> bool:
        """Send as much of a batch as the window takes; False if that is nothing."""
        size_bytes = batch_bytes(batch)
        if not self._fits(len(batch.payloads), size_bytes):
            batch = slice_batch(batch, 0, self._window.fitting(message_sizes(batch)))
            if not batch.payloads:
                return False
            size_bytes = batch_bytes(batch)
        self._send(encode_batch(batch), len(batch.payloads), size_bytes, next_position(batch))
        return True

    def _send(self, encoded: bytes, messages: int, size_bytes: int, position: int) -> None:
        self.connection.send(delivery_head(self.number, len(encoded)), encoded)
        self._window.spend(messages, size_bytes)
        self.sent_messages += messages
        self.position = position

    async def _read(self) -> None:
        """Read a chunk from disk and send it."""
        topic = self._feed.topic
        blocked = False
        try:
            batch = await self._store.read(topic, self.position, self._window.messages)
            if batch is None:  # everything up to the committed end has been compacted away
                self.position = topic.committed
            else:
                for part in cut(batch, len(batch.payloads), self._store.settings.read_bytes):
                    if self._ended or not self._send_part(part):
                        blocked = True
                        break
        except PubsubError as error:
            self.end(error)
        finally:
            self._reading = None
        if not blocked:
            self.pump()

    def end(self, error: PubsubError | None = None) -> None:
        """Send nothing more; with an error, tell the subscriber why. Idempotent."""
        if self._ended:
            return
        self._ended = True
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()
        self._feed.remove(self)
        if error is not None:
            self.connection.send_frame(Ended(self.number, error.code, error.message, error.data))


class Feed:
    """The subscriptions of one topic, and the tail that they share."""

    def __init__(self, topic: Topic, tail: Tail, emptied: Callable[[Feed], None]) -> None:
        self.topic = topic
        self.tail = tail
        self.deliveries: set[Delivery] = set()
        self._emptied = emptied

    def remove(self, delivery: Delivery) -> None:
        self.deliveries.discard(delivery)
        if not self.deliveries:
            self.tail.clear()
            self._emptied(self)


class Deliveries:
    """Every subscription that this peer serves."""

    def __init__(self, store: Store, settings: PeerSettings, limits: Limits) -> None:
        self._store = store
        self._settings = settings
        self._limits = limits
        self._budget = TailBudget(settings.tails_bytes)
        self._feeds: dict[int, Feed] = {}
        self._by_connection: dict[ServerConnection, dict[int, Delivery]] = {}
        self.sent_messages = 0

    def start(
        self,
        connection: ServerConnection,
        number: int,
        topic: Topic,
        position: int,
        window: Window,
        name: str,
    ) -> Delivery:
        """Begin to deliver; the caller answers the request, then calls `pump`."""
        feed = self._feeds.get(topic.id)
        if feed is None:
            tail = Tail(self._settings.tail_bytes, self._budget)
            feed = self._feeds[topic.id] = Feed(topic, tail, self._forget)
        delivery = Delivery(connection, number, feed, position, window, name, self._store)
        feed.deliveries.add(delivery)
        mine = self._by_connection.get(connection)
        if mine is None:
            mine = self._by_connection[connection] = {}
            connection.when_lost(lambda: self._lost(connection))
            connection.when_writable = lambda: self._writable(connection)
        mine[number] = delivery
        return delivery

    def find(self, connection: ServerConnection, number: int) -> Delivery | None:
        """The delivery that `connection` calls `number`."""
        return self._by_connection.get(connection, {}).get(number)

    def count(self, connection: ServerConnection | None = None) -> int:
        """How many there are, of one connection or in all."""
        if connection is not None:
            return len(self._by_connection.get(connection, {}))
        return sum(map(len, self._by_connection.values()))

    def stop(self, connection: ServerConnection, number: int) -> None:
        """The subscriber wants no more of it."""
        delivery = self._by_connection.get(connection, {}).pop(number, None)
        if delivery is not None:
            delivery.end()

    def on_append(self, topic: Topic, appended: Appended) -> None:
        """A commit added to a topic: send it to everyone who is up to date."""
        feed = self._feeds.get(topic.id)
        if feed is None:
            return
        feed.tail.forget_before(min(delivery.position for delivery in feed.deliveries))
        batch = Batch(
            appended.first_offset,
            None,
            appended.published_us,
            appended.keys,
            appended.headers,
            appended.payloads,
        )
        feed.tail.add(batch, self._limits.batch_messages, self._limits.batch_bytes)
        for delivery in list(feed.deliveries):
            delivery.pump()

    def end_topic(self, topic: Topic, why: str) -> None:
        """The topic is served no more: tell its subscribers."""
        feed = self._feeds.get(topic.id)
        for delivery in list(feed.deliveries) if feed is not None else ():
            self._by_connection.get(delivery.connection, {}).pop(delivery.number, None)
            delivery.end(TopicNotFoundError(why))

    def by_topic(self) -> dict[str, dict[str, int]]:
        """Topic -> name of a subscription -> since when, for the registry."""
        return {
            feed.topic.name: {
                delivery.name or f"{delivery.connection.remote}/{delivery.number}": delivery.since_us
                for delivery in feed.deliveries
            }
            for feed in self._feeds.values()
        }

    def _forget(self, feed: Feed) -> None:
        self._feeds.pop(feed.topic.id, None)

    def _lost(self, connection: ServerConnection) -> None:
        for delivery in list(self._by_connection.pop(connection, {}).values()):
            delivery.end()

    def _writable(self, connection: ServerConnection) -> None:
        for delivery in list(self._by_connection.get(connection, {}).values()):
            delivery.pump()
