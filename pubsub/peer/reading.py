"""Subscribe, credit and query: where a read starts, and what it is given."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pubsub.core.credit import Window
from pubsub.errors import InvalidRequestError, PubsubError
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.cursors import Taken
from pubsub.peer.delivery import Delivery
from pubsub.peer.positions import Until, find_end, find_position, lies_ahead, lost, past_end
from pubsub.peer.tail import cut
from pubsub.protocol import messages as m
from pubsub.protocol.batch import next_position
from pubsub.storage.searching import Found
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

LONGEST_TIMER_SECONDS = 86_400.0
"""An end that lies further ahead is looked at again each day: clocks change, and timers have bounds."""


class Reading:
    """Serves Subscribe, Unsubscribe, Credit and Query."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ending: set[asyncio.Task[None]] = set()
        self.immediate: dict[type, ImmediateHandler] = {m.Credit: self.on_credit}
        self.requests: dict[type, RequestHandler] = {
            m.Subscribe: self.on_subscribe,
            m.Unsubscribe: self.on_unsubscribe,
            m.Query: self.on_query,
        }

    async def on_subscribe(self, connection: ServerConnection, frame: m.Subscribe) -> m.Frame | list[m.Frame]:
        if frame.window_messages < 0 or frame.window_bytes < 0:
            raise InvalidRequestError("a window is not negative")
        topic = self._node.served(frame.topic, frame.topic_id)
        with self._node.numbers.beginning(connection, frame.subscription) as check_wanted:
            until = await find_end(self._node.store, topic, frame.until, frame.until_us)
            position, skipped, generation = await self._begin(topic, frame)
            check_wanted()
        self._node.check_served(topic)
        if not connection.open:
            return []
        window = Window(frame.window_messages, frame.window_bytes)
        delivery = self._node.deliveries.start(
            connection,
            frame.subscription,
            topic,
            position,
            window,
            frame.name or frame.durable,
            until,
            frame.durable,
        )
        connection.send_frame(
            m.Subscribed(
                id=frame.id,
                topic_id=topic.id,
                epoch=topic.epoch,
                position=position,
                skipped=skipped,
                generation=generation,
            )
        )
        if until is not None and until.pending:
            self._end_later(delivery, topic, frame.until_us)
        delivery.pump()
        return []

    async def _begin(self, topic: Topic, frame: m.Subscribe) -> Taken:
        """Where a subscription begins. Nothing may be awaited between this and the start of its delivery.

        Raises:
            OffsetOutOfRangeError: that lies before the first kept offset or beyond the next one.
        """
        if frame.durable:
            return await self._node.cursors.take(topic, frame)
        position = await find_position(
            self._node.store, topic, frame.start, frame.at_us, skip_lost=frame.skip_lost
        )
        return Taken(position, max(0, position - frame.start) if frame.start >= 0 else 0, 0)

    def _end_later(self, delivery: Delivery, topic: Topic, until_us: int) -> None:
        """End a subscription that wants what is published before a time, when it has come."""
        loop = asyncio.get_running_loop()

        def has_come() -> None:
            if lies_ahead(until_us):
                self._end_later(delivery, topic, until_us)
                return
            ending = asyncio.create_task(
                self._end(delivery, topic, until_us), name=f"pubsub: end of a subscription to {topic.name}"
            )
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

        seconds = until_us / 1e6 - time.time()
        delivery.when_ending(loop.call_later(min(max(seconds, 0), LONGEST_TIMER_SECONDS), has_come))

    async def _end(self, delivery: Delivery, topic: Topic, until_us: int) -> None:
        try:
            delivery.end_at(await past_end(self._node.store, topic, until_us))
        except PubsubError as error:
            delivery.end(error)

    def on_credit(self, connection: ServerConnection, frame: m.Credit) -> None:
        delivery = self._node.deliveries.find(connection, frame.subscription)
        if delivery is not None and 0 <= frame.messages < 2**40 and 0 <= frame.bytes < 2**50:
            delivery.credit(frame.messages, frame.bytes)

    async def on_unsubscribe(self, connection: ServerConnection, frame: m.Unsubscribe) -> m.Frame:
        self._node.numbers.end(connection, frame.subscription)
        return m.Done(frame.id)

    async def on_query(self, connection: ServerConnection, frame: m.Query) -> m.Frame:
        if frame.limit < 1:
            raise InvalidRequestError(f"a limit is a number from 1 on, not {frame.limit}")
        store, topic = self._node.store, self._node.owned(frame.topic, frame.topic_id)
        until = await find_end(store, topic, frame.until, frame.until_us) or Until(None, 0)
        position = await find_position(store, topic, frame.start, frame.at_us)
        end = topic.committed  # as the read sees it: what is committed meanwhile must not be skipped
        found = await self._find(topic, frame, position, end if until.stop is None else min(until.stop, end))
        if frame.start >= 0 and (found.batch is None or found.batch.first_offset > position):
            first_offset = await store.first_offset(topic)
            if position < first_offset:
                raise lost(topic, position, first_offset)
        batch = None if found.batch is None else until.before(found.batch)
        next_offset = topic.committed if until.stop is None else min(until.stop, topic.committed)
        position = min(found.position, max(position, next_offset))
        if batch is not None and batch.payloads:  # a read may overshoot, a frame must not
            whole, batch = batch, next(cut(batch, len(batch.payloads), self._node.limits.batch_bytes))
            if len(batch.payloads) < len(whole.payloads):
                position = next_position(batch)
        return m.QueryResult(
            id=frame.id,
            topic_id=topic.id,
            batch=batch if batch is not None and batch.payloads else None,
            position=position,
            next_offset=next_offset,
        )

    async def _find(self, topic: Topic, frame: m.Query, position: int, end: int) -> Found:
        """Messages that a query wants, from `position` on, and where to go on."""
        if frame.key is not None or frame.headers:
            return await self._node.store.search(
                topic, position, end, frame.limit, frame.key, frame.headers or {}
            )
        batch = await self._node.store.read(topic, position, frame.limit)
        return Found(batch, max(position, end) if batch is None else next_position(batch))
