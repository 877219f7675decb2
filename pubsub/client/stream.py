"""A stream of messages from a topic's owner that outlives its connections.

Owns finding the owner, asking it to begin, noticing that the connection or the stream has ended, and beginning
anew with backoff. What is asked for and what is done with what comes is the subclass's: `Subscription`, and
`GroupSubscription` for members of a group.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from pubsub.client.routes import Route, Routes
from pubsub.config import ClientSettings, check_number
from pubsub.errors import (
    ClosedError,
    IndexUnavailableError,
    InvalidRequestError,
    PubsubError,
    SettingsError,
    TimeoutExpiredError,
    TopicNotFoundError,
    error_from_wire,
)
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame

log = logging.getLogger("pubsub.client")

SILENCE_SECONDS = 2.0
"""The owner of a replicated topic that has sent nothing for so long may own it no more: an index is asked."""
REQUEST_SECONDS = 5.0
"""How long an owner may take to answer a request before it is asked again."""


def checked_reconnect(reconnect_seconds: float | None) -> float | None:
    """For how long a lost owner is looked for; None: for ever.

    Raises:
        InvalidRequestError: it is no number of seconds.
    """
    if reconnect_seconds is not None:
        try:
            check_number("reconnect_seconds", reconnect_seconds, whole=False)
        except SettingsError as error:
            raise InvalidRequestError(error.message) from error
    return reconnect_seconds


class Stream:
    """Base of what `subscribe` returns: `async with client.subscribe(topic) as messages`."""

    def __init__(
        self, topic: str, routes: Routes, settings: ClientSettings, reconnect_seconds: float | None
    ) -> None:
        self.topic = topic
        self.topic_id = 0
        """The topic's id once connected: a topic created anew under the same name is another one."""
        self._routes = routes
        self._settings = settings
        self._reconnect_seconds = checked_reconnect(reconnect_seconds)
        self._link: Link | None = None
        self._number = 0
        self._more = asyncio.Event()
        """Set when something has come that whoever iterates should look at: messages, an error, the end."""
        self._error: PubsubError | None = None
        self._closed = False
        self._recovery: asyncio.Task[None] | None = None
        self._ended_early = False
        """Whether a stream has ended while recovering: it may be the one that was just begun."""
        self._heard = False
        """Whether anything has come since the owner was looked at."""
        self._checking: asyncio.Task[None] | None = None

    # What subclasses do

    def _request(self, link: Link, route: Route, number: int) -> m.Request:
        """The request that begins the stream as `number` on a connection."""
        raise NotImplementedError

    def _begin(self, link: Link, reply: m.Frame) -> int:
        """Take the owner's answer; returns the topic's id. Messages may have come before it.

        Raises:
            RemoteProtocolError: it is no answer to the request.
        """
        raise NotImplementedError

    def _take(self, batch: m.Batch) -> None:
        """Take messages; `_more` is set afterwards."""
        raise NotImplementedError

    def _interrupted(self) -> None:
        """The stream is not being delivered at the moment: it was lost, has ended, or is being closed."""

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
                # An error with an id is about a topic that we remembered, and whose name is another's now.
                moved = isinstance(error, TopicNotFoundError) and "id" in error.data and not self.topic_id
                retriable = error.retriable or moved or isinstance(error, TimeoutExpiredError)
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
            reply = await link.request(self._request(link, route, number), wait)
        except BaseException as error:
            self._leave()
            if isinstance(error, TimeoutExpiredError | asyncio.CancelledError):
                end_stream(link, number)  # the owner may have begun it, or still do so
            raise
        self.topic_id = self._begin(link, reply)
        link.when_lost(lambda: self._on_lost(number))
        if self._checking is not None:
            self._checking.cancel()  # it looks after the stream before this one
            self._checking = None
        if route.replicated:
            self._checking = asyncio.create_task(
                self._check_owner(route, number), name=f"pubsub: does its owner still own {self.topic}"
            )

    async def _check_owner(self, route: Route, number: int) -> None:
        """While nothing comes from the owner of a replicated topic, see whether another peer owns it by now."""
        while (link := self._delivering(number)) is not None:
            self._heard = False
            await asyncio.sleep(SILENCE_SECONDS)
            if self._heard or not await self._routes.moved(route, SILENCE_SECONDS):
                continue
            if self._delivering(number) is link:
                log.info("peer %s says nothing and does not own %s any more", route.owner, self.topic)
                self._routes.forget(self.topic)
                end_stream(link, number)
                self._leave()
                self._checking = None
                self._reconnect()
            return

    def _delivering(self, number: int) -> Link | None:
        """The connection on which the stream comes, if it is still that one."""
        return self._link if number == self._number and not self._closed else None

    def _leave(self) -> None:
        """Forget the connection; a frame that still comes for it is dropped."""
        if self._link is not None:
            self._link.streams.pop(self._number, None)
            self._link = None
        self._interrupted()

    def _on_lost(self, number: int) -> None:
        if number == self._number and self._link is not None and not self._closed:
            self._leave()
            self._reconnect()

    def _reconnect(self) -> None:
        self._ended_early = self._recovery is not None
        if self._recovery is None and not self._closed:
            self._recovery = asyncio.create_task(
                self._recover(), name=f"pubsub: subscribe again to {self.topic}"
            )

    async def _recover(self) -> None:
        loop = asyncio.get_running_loop()
        limit = self._reconnect_seconds
        deadline = None if limit is None else loop.time() + limit
        try:
            await self._connect(deadline)
            while self._ended_early and self._link is None and not self._closed:
                self._ended_early = False
                await asyncio.sleep(self._settings.backoff_first_seconds)
                await self._connect(deadline)
        except PubsubError as error:
            if limit is not None and (error.retriable or isinstance(error, IndexUnavailableError)):
                error = TimeoutExpiredError(
                    f"{self.topic} could not be reached again within {limit:g} s: {error}"
                )
            self._fail(error)
        finally:
            self._recovery = None

    def _fail(self, error: PubsubError) -> None:
        """Nothing more will come: whoever iterates gets the error after what has come already."""
        self._error = error
        self._more.set()

    def _on_stream(self, number: int, frame: m.Deliver | m.Ended) -> None:
        if number != self._number:
            return
        self._heard = True
        if isinstance(frame, m.Deliver):
            self._take(frame.batch)
            self._more.set()
            return
        self._leave()
        self._ended(frame)

    def _ended(self, frame: m.Ended) -> None:
        """The owner has ended the stream."""
        error = error_from_wire(frame.code, frame.message, frame.data)
        self._routes.forget(self.topic)
        if error.retriable:
            self._reconnect()
        else:
            self._fail(error)

    # Closing

    async def close(self) -> None:
        """End the stream; iterating over it ends quietly. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._more.set()
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        if self._checking is not None:
            self._checking.cancel()
        link, number = self._link, self._number
        self._leave()
        if link is not None:
            end_stream(link, number)

    async def __aenter__(self) -> Self:
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


def end_stream(link: Link, number: int) -> None:
    """Tell the owner that nobody wants the stream any more; nothing waits for the answer."""
    if link.open:
        request = link.next_id()
        link.call(request, encode_frame(m.Unsubscribe(request, number)), lambda reply: None)
