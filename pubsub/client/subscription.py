"""An ordered read of a topic that outlives its connections.

The owner sends batches within the window granted; what the application has taken is given back as credit. The
position is the offset after the last message received, so after a lost connection the stream goes on there:
nothing is skipped, nothing comes twice. Between two messages of one batch no other task runs unless the
application awaits something itself.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import repeat
from typing import Any

import msgspec

from pubsub.client.routes import Route, Routes
from pubsub.client.stream import Stream
from pubsub.config import ClientSettings
from pubsub.errors import InvalidRequestError, OffsetOutOfRangeError, RemoteProtocolError, shown
from pubsub.model import NO_HEADERS, Message, us_from_datetime
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.batch import batch_bytes, decode_headers, next_position
from pubsub.protocol.codec import encode_frame

log = logging.getLogger("pubsub.client")

Start = str | int | datetime
"""`"latest"`, `"earliest"`, an offset, or an aware datetime."""


def start_fields(start: Start) -> tuple[int, int]:
    """`start` and `at_us` as the protocol writes them.

    Raises:
        InvalidRequestError: it is none of what a start may be.
    """
    if start == "latest":
        return m.LATEST, 0
    if start == "earliest":
        return m.EARLIEST, 0
    if isinstance(start, datetime):
        return m.AT_TIME, us_from_datetime(start)
    if isinstance(start, int) and not isinstance(start, bool) and 0 <= start < 2**63:
        return start, 0
    raise InvalidRequestError(
        f'a start is "latest", "earliest", an offset from 0 on, or an aware datetime, not {shown(start)}'
    )


def until_fields(until: Start | None) -> tuple[int, int]:
    """`until` and `until_us` as the protocol writes them.

    Raises:
        InvalidRequestError: it is none of what an end may be.
    """
    if until is None:
        return -1, 0
    if isinstance(until, datetime):
        return -1, max(1, us_from_datetime(until))
    if isinstance(until, int) and not isinstance(until, bool) and 0 <= until < 2**63:
        return until, 0
    raise InvalidRequestError(f"an end is an offset from 0 on, or an aware datetime, not {shown(until)}")


def columns_of(topic: str, batch: m.Batch) -> tuple[Iterable[Any], ...]:
    """The fields of `Message`, in their order, for each message of a batch: made by C loops as far as can be."""
    count = len(batch.payloads)
    offsets = batch.offsets or range(batch.first_offset, batch.first_offset + count)
    times = repeat(batch.published_us) if isinstance(batch.published_us, int) else batch.published_us
    headers = repeat(NO_HEADERS) if batch.headers is None else map(decode_headers, batch.headers)
    keys = repeat(None) if batch.keys is None else batch.keys
    return repeat(topic), offsets, times, keys, headers, batch.payloads


def messages_of(topic: str, batch: m.Batch) -> list[Message]:
    """The messages of a batch as objects."""
    return list(map(Message, *columns_of(topic, batch)))


class Subscription(Stream):
    """The messages of one topic, in order: `async with client.subscribe(topic) as messages: async for …`.

    Ends quietly when it, or its client, is closed. Raises from the iteration:
        TopicNotFoundError: the topic was deleted, also when it has been created anew since.
        OffsetOutOfRangeError: the owner's log does not reach to, or no longer has, the position.
        TimeoutExpiredError: it could not be reconnected within `reconnect_seconds`.
    """

    def __init__(
        self,
        topic: str,
        start: Start,
        routes: Routes,
        settings: ClientSettings,
        reconnect_seconds: float | None,
        name: str,
        *,
        until: Start | None = None,
        on_lost: str = "error",
    ) -> None:
        super().__init__(topic, routes, settings, reconnect_seconds)
        self.position: int | None = None
        """Offset of the next message to be received; None until connected."""
        self.skipped = 0
        """Messages that retention took away before they could be read here, with `on_lost="skip"`."""
        if on_lost not in ("error", "skip"):
            raise InvalidRequestError(f'on_lost is "error" or "skip", not {shown(on_lost)}')
        first, at_us = start_fields(start)
        stop, stop_us = until_fields(until)
        self._wanted = m.Subscribe(
            id=0,
            subscription=0,
            topic=topic,
            start=first,
            at_us=at_us,
            window_messages=0,
            window_bytes=0,
            name=name,
            until=stop,
            until_us=stop_us,
            skip_lost=on_lost == "skip",
        )
        """What is asked for the first time, but for what belongs to a connection."""
        self._finished = False
        """Whether all up to `until` has been received."""
        self._received: deque[m.Batch] = deque()
        self._held_messages = 0
        self._held_bytes = 0
        """Received and not yet given back as credit."""
        self._current: Iterator[Message] = iter(())
        self._current_size = (0, 0)
        self._owed = [0, 0]
        """Messages and bytes taken by the application and not yet sent as credit."""
        self._begun = False
        """Whether the owner has answered the last request: credit that comes before the stream is dropped there."""

    @property
    def _skip_lost(self) -> bool:
        """What to do where retention was faster."""
        return self._wanted.skip_lost

    # Connecting

    def _request(self, link: Link, route: Route, number: int) -> m.Subscribe:
        # What the application has not taken yet counts against the window of the new connection too.
        self._owed, self._begun = [0, 0], False
        return msgspec.structs.replace(
            self._wanted,
            id=link.next_id(),
            subscription=number,
            topic_id=route.topic_id,
            start=self._wanted.start if self.position is None else self.position,
            window_messages=max(0, self._settings.window_messages - self._held_messages),
            window_bytes=max(0, self._settings.window_bytes - self._held_bytes),
        )

    def _begin(self, link: Link, reply: m.Frame) -> int:
        if not isinstance(reply, m.Subscribed):
            raise RemoteProtocolError(f"unexpected reply to subscribe: {type(reply).__name__}")
        if reply.skipped:
            self.skipped += reply.skipped
            log.warning(
                "retention took %d messages of topic %s away before they were read: going on at offset %d",
                reply.skipped,
                self.topic,
                reply.position,
            )
        self.position = max(self.position or 0, reply.position)  # messages may have come before the reply
        self._begun = True
        if self._owed[0]:  # taken since the request
            self._send_credit()
        return reply.topic_id

    def _ended(self, frame: m.Ended) -> None:
        overtaken = frame.code == OffsetOutOfRangeError.code and frame.data.get("first_offset", 0)
        if not frame.code:
            self._finished = True
            self._more.set()
        elif self._skip_lost and overtaken and overtaken > (self.position or 0):
            self._reconnect()  # which says how many were lost
        else:
            super()._ended(frame)

    # Receiving

    def _take(self, batch: m.Batch) -> None:
        self._received.append(batch)
        self._held_messages += len(batch.payloads)
        self._held_bytes += batch_bytes(batch)
        self.position = next_position(batch)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        for message in self._current:
            return message
        self._current = iter(await self._next_messages())
        return next(self._current)

    async def next_batch(self) -> list[Message]:
        """The next messages that have arrived, at least one: what is left of a batch begun by iterating first.

        Raises:
            StopAsyncIteration: the subscription has been closed.
        """
        return list(self._current) or await self._next_messages()

    async def _next_messages(self) -> list[Message]:
        self._give_back()
        while not self._received:
            if self._closed or self._finished:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            self._more.clear()
            await self._more.wait()
        if self._closed:
            raise StopAsyncIteration
        batch = self._received.popleft()
        self._current_size = (len(batch.payloads), batch_bytes(batch))
        return messages_of(self.topic, batch)

    def _give_back(self) -> None:
        """The application has finished a batch: grant the owner as much again, in portions worth a frame."""
        messages, size_bytes = self._current_size
        if not messages:
            return
        self._current_size = (0, 0)
        self._held_messages -= messages
        self._held_bytes -= size_bytes
        self._owed[0] += messages
        self._owed[1] += size_bytes
        enough = (
            not self._received
            or self._owed[0] * 4 >= self._settings.window_messages
            or self._owed[1] * 4 >= self._settings.window_bytes
        )
        if enough and self._begun:
            self._send_credit()

    def _send_credit(self) -> None:
        if self._link is not None:
            self._link.send(encode_frame(m.Credit(self._number, *self._owed)))
            self._owed = [0, 0]

    async def commit(self, through: Message | None = None) -> None:
        """See `DurableSubscription.commit`.

        Raises:
            InvalidRequestError: this subscription is not durable, so there is nothing to commit.
        """
        raise InvalidRequestError(
            f'this subscription to {self.topic} keeps no position: give it a name, as in durable="dash"'
        )

    # Closing

    async def close(self) -> None:
        """End the stream; iterating over it ends quietly. Idempotent."""
        self._current = iter(())
        self._received.clear()
        await super().close()
