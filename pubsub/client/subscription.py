"""An ordered read of a topic that outlives its connections.

The owner sends batches within the window granted; what the application has taken is given back as credit. The
position is the offset after the last message received, so after a lost connection the stream goes on there:
nothing is skipped, nothing comes twice. Between two messages of one batch no other task runs unless the
application awaits something itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from itertools import repeat
from types import TracebackType

from pubsub.client.routes import Route, Routes
from pubsub.config import ClientSettings
from pubsub.errors import (
    ClosedError,
    IndexUnavailableError,
    InvalidRequestError,
    PubsubError,
    RemoteProtocolError,
    TimeoutExpiredError,
    TopicNotFoundError,
    error_from_wire,
)
from pubsub.model import NO_HEADERS, Message, us_from_datetime
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.batch import batch_bytes, decode_headers, next_position
from pubsub.protocol.codec import encode_frame

log = logging.getLogger("pubsub.client")

Start = str | int | datetime
"""`"latest"`, `"earliest"`, an offset, or an aware datetime."""

REQUEST_SECONDS = 5.0
"""How long an owner may take to answer a subscribe or query request before it is asked again."""


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
        f'a start is "latest", "earliest", an offset from 0 on, or an aware datetime, not {start!r}'
    )


def messages_of(topic: str, batch: m.Batch) -> list[Message]:
    """The messages of a batch as objects, made by C loops as far as can be."""
    count = len(batch.payloads)
    offsets = batch.offsets or range(batch.first_offset, batch.first_offset + count)
    times = repeat(batch.published_us) if isinstance(batch.published_us, int) else batch.published_us
    headers = repeat(NO_HEADERS) if batch.headers is None else map(decode_headers, batch.headers)
    keys = repeat(None) if batch.keys is None else batch.keys
    return list(map(Message, repeat(topic), offsets, times, keys, headers, batch.payloads))


class Subscription:
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
    ) -> None:
        self.topic = topic
        self.topic_id = 0
        """The topic's id once connected: a topic created anew under the same name is another one."""
        self.position: int | None = None
        """Offset of the next message to be received; None until connected."""
        self._start, self._at_us = start_fields(start)
        self._routes = routes
        self._settings = settings
        self._reconnect_seconds = reconnect_seconds
        self._name = name
        self._link: Link | None = None
        self._number = 0
        self._received: deque[m.Batch] = deque()
        self._held_messages = 0
        self._held_bytes = 0
        """Received and not yet given back as credit."""
        self._current: Iterator[Message] = iter(())
        self._current_size = (0, 0)
        self._owed = [0, 0]
        """Messages and bytes taken by the application and not yet sent as credit."""
        self._more = asyncio.Event()
        self._error: PubsubError | None = None
        self._closed = False
        self._recovery: asyncio.Task[None] | None = None

    # Connecting

    async def open(self) -> None:
        """Connect, so that every message published from now on will be seen.

        Raises:
            TopicNotFoundError: there is no such topic; subscribing never creates one.
            OffsetOutOfRangeError: the start lies outside the log.
            PubsubError: the last retriable error when the client's timeout is over.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.timeout_seconds
        await self._connect(deadline)

    async def _connect(self, deadline: float | None) -> None:
        """Try until it works, something final happens, or the deadline passes."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._settings.backoff_first_seconds, self._settings.backoff_most_seconds)
        while not self._closed:
            left = None if deadline is None else deadline - loop.time()
            try:
                await self._attempt(left)
                return
            except PubsubError as error:
                self._routes.forget(self.topic)
                retriable = error.retriable or isinstance(error, TimeoutExpiredError)
                pause = backoff.next_seconds()
                if not retriable or (deadline is not None and loop.time() + pause >= deadline):
                    raise
                log.debug("subscribing to %s again: %s", self.topic, error)
            await asyncio.sleep(pause)

    async def _attempt(self, left_seconds: float | None) -> None:
        wait = REQUEST_SECONDS if left_seconds is None else max(0.1, min(REQUEST_SECONDS, left_seconds))
        route = await self._routes.find(self.topic, wait)
        if self.topic_id and route.topic_id != self.topic_id:
            raise TopicNotFoundError(
                f"topic {self.topic} was deleted; the one of that name now is another topic"
            )
        link = await self._routes.link(route)
        number = link.next_subscription()
        link.streams[number] = lambda frame: self._on_stream(number, frame)
        self._link, self._number = link, number
        try:
            reply = await link.request(self._subscribe_frame(link, route, number), wait)
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutExpiredError | asyncio.CancelledError):
                _end_stream(link, number)  # the owner may have begun it, or still do so
            raise
        if not isinstance(reply, m.Subscribed):
            raise RemoteProtocolError(f"unexpected reply to subscribe: {type(reply).__name__}")
        self.topic_id = reply.topic_id
        if self.position is None:
            self.position = reply.position
        link.when_lost(lambda: self._on_lost(number))

    def _subscribe_frame(self, link: Link, route: Route, number: int) -> m.Subscribe:
        # What the application has not taken yet counts against the window of the new connection too.
        self._owed = [0, 0]
        return m.Subscribe(
            id=link.next_id(),
            subscription=number,
            topic=self.topic,
            topic_id=route.topic_id,
            start=self._start if self.position is None else self.position,
            at_us=self._at_us,
            window_messages=max(0, self._settings.window_messages - self._held_messages),
            window_bytes=max(0, self._settings.window_bytes - self._held_bytes),
            name=self._name,
        )

    def _leave(self) -> None:
        """Forget the connection; a frame that still comes for it is dropped."""
        if self._link is not None:
            self._link.streams.pop(self._number, None)
            self._link = None

    def _on_lost(self, number: int) -> None:
        if number == self._number and self._link is not None and not self._closed:
            self._leave()
            self._reconnect()

    def _reconnect(self) -> None:
        if self._recovery is None and not self._closed:
            self._recovery = asyncio.create_task(
                self._recover(), name=f"pubsub: subscribe again to {self.topic}"
            )

    async def _recover(self) -> None:
        loop = asyncio.get_running_loop()
        limit = self._reconnect_seconds
        try:
            await self._connect(None if limit is None else loop.time() + limit)
        except PubsubError as error:
            if limit is not None and (error.retriable or isinstance(error, IndexUnavailableError)):
                error = TimeoutExpiredError(
                    f"{self.topic} could not be reached again within {limit:g} s: {error}"
                )
            self._error = error
            self._more.set()
        finally:
            self._recovery = None

    # Receiving

    def _on_stream(self, number: int, frame: m.Deliver | m.Ended) -> None:
        if number != self._number:
            return
        if isinstance(frame, m.Deliver):
            batch = frame.batch
            self._received.append(batch)
            self._held_messages += len(batch.payloads)
            self._held_bytes += batch_bytes(batch)
            self.position = next_position(batch)
            self._more.set()
            return
        error = error_from_wire(frame.code, frame.message, frame.data)
        self._leave()
        self._routes.forget(self.topic)
        if error.retriable:
            self._reconnect()
        else:
            self._error = error
            self._more.set()

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
            if self._closed:
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
        if enough and self._link is not None:
            self._link.send(encode_frame(m.Credit(self._number, *self._owed)))
            self._owed = [0, 0]

    # Closing

    async def close(self) -> None:
        """End the stream; iterating over it ends quietly. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._more.set()
        self._current = iter(())
        self._received.clear()
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        link, number = self._link, self._number
        self._leave()
        if link is not None:
            _end_stream(link, number)

    async def __aenter__(self) -> Subscription:
        if self._closed:
            raise ClosedError("the subscription has been closed")
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _end_stream(link: Link, number: int) -> None:
    if link.open:
        request = link.next_id()
        link.call(request, encode_frame(m.Unsubscribe(request, number)), lambda reply: None)
