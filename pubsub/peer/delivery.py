"""Delivering: each subscription is a position in a topic, moved on whenever something allows it.

What allows it: a commit, credit from the subscriber, room in the connection, a finished read from disk. There
is no task for a subscription that is up to date, and none for a message ever. A subscriber that does not read,
or grants no credit, keeps nothing in memory but the connection's bounded buffer; it is fed from disk later, and
until it can be sent something it causes no reads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from pubsub.core.credit import Window
from pubsub.errors import InternalError, PubsubError
from pubsub.net.server import ServerConnection
from pubsub.peer.positions import Until, lost
from pubsub.peer.tail import Tail, cut
from pubsub.protocol.batch import batch_bytes, message_sizes, next_position, slice_batch
from pubsub.protocol.codec import delivery_head, encode_batch
from pubsub.protocol.messages import Batch, Ended
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic

log = logging.getLogger("pubsub.peer")

READS_AT_ONCE = 2
"""Reads from disk under way for one connection: each brings up to `read_bytes` into memory."""
FAR_BEHIND = 100_000
"""Who has so many messages yet to come replays: others who publish meanwhile come first."""
CROWDED_READS = 5
"""So many reads give way after one at whose end something waited to be stored. Where somebody publishes flat out, now
and then nothing waits for a moment; where little is published, seldom anything does."""
REST, MOST_REST_SECONDS = 4.0, 0.1
"""They get so many times as long, after each read from disk, as the read took."""


class Delivery:
    """One subscription: the stream of a topic to one connection, from `position` on."""

    def __init__(
        self,
        subscriber: Subscriber,
        number: int,
        feed: Feed,
        position: int,
        window: Window,
        name: str,
        store: Store,
        until: Until | None,
        durable: str,
    ) -> None:
        self.connection = subscriber.connection
        self.number = number
        self.position = position
        """Offset of the next message to send."""
        self.name = name
        self.since_us = time.time_ns() // 1000
        self.sent_messages = 0
        self.durable = durable
        """Name of the durable subscription that it serves, or empty."""
        self._until = until
        self._until_timer: asyncio.TimerHandle | None = None
        self.follows = False
        """Whether it is a copy that is fed, not a subscriber."""
        self.when_ended: Callable[[], None] = lambda: None
        self.subscriber = subscriber
        self.feed = feed
        self._window = window
        self._store = store
        self._missing_bytes = 0
        """Size of the next message, where it is known that it does not fit the window."""
        self._reading: asyncio.Task[None] | None = None
        self._crowded = 0
        """How many reads will still give way to others who publish."""
        self._ended = False

    def credit(self, messages: int, size_bytes: int) -> None:
        """The subscriber has taken so much."""
        self._window.grant(messages, size_bytes)
        self.pump()

    def pump(self) -> None:
        """Send whatever may be sent now."""
        topic = self.feed.topic
        while (
            self.position < topic.committed
            and self._window.messages > 0
            and (self._window.bytes >= self._missing_bytes or self._window.idle)
            and self._reading is None
            and self.connection.writable
            and not self._ended
            and (self._until is None or not self._until.reached(self.position))
        ):
            piece = self.feed.tail.find(self.position)
            if piece is None:
                if not self._start_reading():
                    break
            elif (
                piece.first == self.position
                and piece.stop <= topic.committed
                and self._until is None
                and self._fits(piece.stop - piece.first, piece.size_bytes)
            ):
                self._send(piece.encoded, piece.stop - piece.first, piece.size_bytes, piece.stop)
            elif not self._send_part(
                slice_batch(
                    piece.batch,
                    self.position - piece.first,
                    min(piece.stop, topic.committed) - piece.first,
                )
            ):
                break
        if self._until is not None and self._until.reached(self.position):
            self.end(finished=True)

    def _start_reading(self) -> bool:
        """Read from disk; False if it is not this delivery's turn yet."""
        if not self.subscriber.may_read(self):
            return False
        self._reading = asyncio.create_task(
            self._read(), name=f"pubsub: read {self.feed.topic.name} for {self.connection.remote}"
        )
        self._reading.add_done_callback(self._has_read)
        return True

    def end_at(self, offset: int) -> None:
        """The time until which messages were wanted has come: nothing from `offset` on was published before it."""
        if self._until is not None and not self._ended:
            self._until.end_at(offset)
            self.pump()

    def when_ending(self, timer: asyncio.TimerHandle) -> None:
        """What will call `end_at`; cancelled if the subscription ends before."""
        self._until_timer = timer

    def _fits(self, messages: int, size_bytes: int) -> bool:
        return messages <= self._window.messages and size_bytes <= self._window.bytes

    def _send_part(self, batch: Batch) -> bool:
        """Send as much of a batch as the window takes; False if that is not all of it.

        Of a batch that reaches beyond the end of the subscription, that is all up to there.
        """
        if self._until is not None:
            wanted = self._until.before(batch)
            if not wanted.payloads:
                self.position = self._until.stop or 0
                return True
            batch = wanted
        size_bytes = batch_bytes(batch)
        left_out = None
        if not self._fits(len(batch.payloads), size_bytes):
            sizes = message_sizes(batch)
            count = self._window.fitting(sizes)
            if count < len(sizes):
                left_out = sizes[count]
            batch = slice_batch(batch, 0, count)
            size_bytes = batch_bytes(batch)
        if batch.payloads:
            self._send(encode_batch(batch), len(batch.payloads), size_bytes, next_position(batch))
        self._missing_bytes = left_out or 0
        return left_out is None

    def _send(self, encoded: bytes, messages: int, size_bytes: int, position: int) -> None:
        self.connection.send(delivery_head(self.number, len(encoded)), encoded)
        self._window.spend(messages, size_bytes)
        self.sent_messages += messages
        self.position = position
        self._missing_bytes = 0

    async def _read(self) -> None:
        """Read a chunk from disk, of no more than may be sent, and send it."""
        topic, stop = self.feed.topic, self.feed.topic.committed
        began = asyncio.get_running_loop().time()
        try:
            batch = await self._store.read(topic, self.position, self._window.messages, self._window.bytes)
            if self._ended:
                return
            if (batch is None or batch.first_offset > self.position) and await self._overtaken():
                return
            if batch is None:  # everything up to the end, as it was then, has been compacted away
                self.position = stop
                return
            limits = self.connection.limits
            for part in cut(batch, limits.batch_messages, limits.batch_bytes):
                if not self._send_part(part):  # never the part after one that was not sent whole
                    break
            if self._gives_way():
                took_seconds = asyncio.get_running_loop().time() - began
                await asyncio.sleep(min(REST * took_seconds, MOST_REST_SECONDS))
        except PubsubError as error:
            self.end(error)
        except Exception:
            log.exception("reading %s for %s failed", topic.name, self.connection.remote)
            self.end(InternalError(f"reading topic {topic.name} failed inside the peer; see its log"))

    def _gives_way(self) -> bool:
        """At the end of a read: whether others publish, and come first because this is far behind."""
        self._crowded = CROWDED_READS if self._store.queued_bytes else max(0, self._crowded - 1)
        return self._crowded > 0 and self.feed.topic.next_offset - self.position > FAR_BEHIND

    async def _overtaken(self) -> bool:
        """There is a gap at the position: whether retention is why (then this has ended), not compaction."""
        first_offset = await self._store.first_offset(self.feed.topic)
        if self.position < first_offset:
            self.end(lost(self.feed.topic, self.position, first_offset))
        return self._ended

    def _has_read(self, _: asyncio.Task[None]) -> None:
        self._reading = None
        self.subscriber.has_read()
        self.pump()

    def end(self, error: PubsubError | None = None, *, finished: bool = False) -> None:
        """Send nothing more; tell the subscriber why, or that it has had all that it wanted. Idempotent."""
        if self._ended:
            return
        self._ended = True
        if self._until_timer is not None:
            self._until_timer.cancel()
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()
        self.subscriber.forget(self)
        self.feed.remove(self)
        self.when_ended()
        if error is not None:
            self.connection.send_frame(Ended(self.number, error.code, error.message, error.data))
        elif finished:
            self.connection.send_frame(Ended(self.number, "", ""))


class Subscriber:
    """The subscriptions of one connection; they take turns, so that none of them keeps the others waiting."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.deliveries: dict[int, Delivery] = {}
        """By the number that the connection gave them; who was served last stands last."""
        self.count = 0
        """How many of them are subscriptions; the others feed copies."""
        self._reads = 0
        self._waiting: dict[Delivery, None] = {}
        """Those that may read from disk next, in turn."""

    def may_read(self, delivery: Delivery) -> bool:
        """Whether `delivery` may read from disk now. If not, it is pumped when its turn comes."""
        if self._reads < READS_AT_ONCE:
            self._reads += 1
            return True
        self._waiting.setdefault(delivery)
        return False

    def has_read(self) -> None:
        """A read has ended: whoever waits is next, before the one that has just read."""
        self._reads -= 1
        while self._waiting and self._reads < READS_AT_ONCE:
            delivery = next(iter(self._waiting))
            del self._waiting[delivery]
            delivery.pump()

    def pump(self) -> None:
        """The connection has room again."""
        for number, delivery in list(self.deliveries.items()):
            if not self.connection.writable:
                break
            self.deliveries[number] = self.deliveries.pop(number)
            delivery.pump()

    def take(self, delivery: Delivery) -> None:
        """One more."""
        self.deliveries[delivery.number] = delivery
        self.count += not delivery.follows

    def forget(self, delivery: Delivery) -> None:
        """It has ended."""
        if self.deliveries.get(delivery.number) is delivery:
            del self.deliveries[delivery.number]
            self.count -= not delivery.follows
        self._waiting.pop(delivery, None)

    def end(self) -> None:
        """The connection is gone."""
        for delivery in list(self.deliveries.values()):
            delivery.end()


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
