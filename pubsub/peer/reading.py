"""Subscribe, credit and query: where a read starts, and what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pubsub.core.credit import Window
from pubsub.errors import InvalidRequestError, OffsetOutOfRangeError, TopicNotFoundError
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.tail import cut
from pubsub.protocol import messages as m
from pubsub.protocol.batch import next_position
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node


class Reading:
    """Serves Subscribe, Unsubscribe, Credit and Query."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._starting: set[tuple[ServerConnection, int]] = set()
        """Subscriptions whose first position is being looked for."""
        self.immediate: dict[type, ImmediateHandler] = {m.Credit: self.on_credit}
        self.requests: dict[type, RequestHandler] = {
            m.Subscribe: self.on_subscribe,
            m.Unsubscribe: self.on_unsubscribe,
            m.Query: self.on_query,
        }

    async def on_subscribe(self, connection: ServerConnection, frame: m.Subscribe) -> m.Frame | list[m.Frame]:
        if frame.window_messages < 0 or frame.window_bytes < 0:
            raise InvalidRequestError("a window is not negative")
        if not 0 <= frame.subscription < 2**32:
            raise InvalidRequestError("a subscription is numbered from 0 to 2^32 - 1")
        if self._node.deliveries.count(connection) >= self._node.limits.subscriptions:
            raise InvalidRequestError(
                f"at most {self._node.limits.subscriptions} subscriptions on one connection"
            )
        topic = self._node.owned(frame.topic, frame.topic_id)
        mine = (connection, frame.subscription)
        if self._node.deliveries.find(*mine) is not None or mine in self._starting:
            raise InvalidRequestError(f"this connection has a subscription {frame.subscription} already")
        self._starting.add(mine)
        try:
            position = await self._position(topic, frame.start, frame.at_us)
            if mine not in self._starting:
                raise InvalidRequestError(f"subscription {frame.subscription} was ended before it began")
        finally:
            self._starting.discard(mine)
        if self._node.store.topics.get(topic.name) is not topic or not connection.open:
            raise TopicNotFoundError(f"topic {topic.name} was deleted")
        window = Window(frame.window_messages, frame.window_bytes)
        delivery = self._node.deliveries.start(
            connection, frame.subscription, topic, position, window, frame.name
        )
        connection.send_frame(
            m.Subscribed(id=frame.id, topic_id=topic.id, epoch=topic.epoch, position=position)
        )
        delivery.pump()
        return []

    async def _position(self, topic: Topic, start: int, at_us: int) -> int:
        """The offset that a start means.

        Raises:
            OffsetOutOfRangeError: it lies before the first kept offset or beyond the next one.
        """
        if start == m.LATEST:
            return topic.committed
        if start == m.EARLIEST:
            return topic.first_offset
        if start == m.AT_TIME:
            return await self._node.store.offset_at(topic, at_us)
        if not topic.first_offset <= start <= topic.committed:
            raise OffsetOutOfRangeError(
                f"topic {topic.name} has no offset {start}: it keeps {topic.first_offset} to "
                f"{topic.committed - 1}, and {topic.committed} is the next one",
                first_offset=topic.first_offset,
                next_offset=topic.committed,
            )
        return start

    def on_credit(self, connection: ServerConnection, frame: m.Credit) -> None:
        delivery = self._node.deliveries.find(connection, frame.subscription)
        if delivery is not None and 0 <= frame.messages < 2**40 and 0 <= frame.bytes < 2**50:
            delivery.credit(frame.messages, frame.bytes)

    async def on_unsubscribe(self, connection: ServerConnection, frame: m.Unsubscribe) -> m.Frame:
        self._starting.discard((connection, frame.subscription))
        self._node.deliveries.stop(connection, frame.subscription)
        return m.Done(frame.id)

    async def on_query(self, connection: ServerConnection, frame: m.Query) -> m.Frame:
        if frame.limit < 1:
            raise InvalidRequestError(f"a limit is a number from 1 on, not {frame.limit}")
        topic = self._node.owned(frame.topic, frame.topic_id)
        position = await self._position(topic, frame.start, frame.at_us)
        end = topic.committed  # as the read sees it: what is committed meanwhile must not be skipped
        batch = await self._node.store.read(topic, position, frame.limit)
        if batch is not None:  # a read may overshoot, a frame must not
            batch = next(cut(batch, len(batch.payloads), self._node.limits.batch_bytes))
        return m.QueryResult(
            id=frame.id,
            topic_id=topic.id,
            batch=batch,
            position=end if batch is None else next_position(batch),
            next_offset=topic.committed,
        )
