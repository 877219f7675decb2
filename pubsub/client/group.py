"""A member of a group: messages that are this member's until it settles them.

The owner gives out at most `max_in_flight` unsettled messages to a member, each under a lease. Whatever is here and
not settled has its lease extended at a third of it, whether the application holds it or it still waits here; a
message that the application has let go of without a word is not, and comes again when its lease is over.

A connection that breaks ends all leases at once. What waits here is then dropped, since it is given out anew,
and what the application holds can only be settled late. Settling is left to `settling`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from itertools import repeat
from typing import Any

import msgspec

from pubsub.client.group_options import checked_delay_us
from pubsub.client.routes import Route, Routes
from pubsub.client.settling import OWN_BACKOFF, Settling
from pubsub.client.stream import Stream, end_stream
from pubsub.client.subscription import Start, columns_of, start_fields
from pubsub.config import ClientSettings
from pubsub.errors import InvalidRequestError, RemoteProtocolError, shown
from pubsub.model import Message
from pubsub.net.link import Link
from pubsub.protocol import messages as m

log = logging.getLogger("pubsub.client")

EXTENSIONS_PER_LEASE = 3
"""How often a lease is extended before it would have run out: two of them may get lost, or be late."""

CLOSE_SECONDS = 5.0
"""How long closing waits for what has been settled but not yet answered."""


class GroupMessage(Message, frozen=True, gc=True, weakref=True, eq=False):
    """A message given to this member. Settle it once: `ack` or `nack`.

    Each of the three methods takes effect without being awaited; awaiting says that it is on disk at the owner, or
    raises LateAcknowledgementError: the message was not this member's any more, because its lease ran out, the
    connection broke, or it had been settled before. Nothing is changed by that.
    """

    attempt: int
    """How often it has been given out, this time included."""
    _member: GroupSubscription
    _settling: Settling
    _settled: bool = False

    @property
    def settled(self) -> bool:
        """Whether it has been settled here, in time or late."""
        return self._settled

    def ack(self) -> Awaitable[None]:
        """It has been processed: nobody gets it again."""
        return self._member._settle(self, "ack")

    def nack(self, delay_seconds: float | None = None) -> Awaitable[None]:
        """It could not be processed: give it out again after a delay, by default the group's backoff.

        After the group's `max_attempts` it moves to the dead letter topic.

        Raises:
            InvalidRequestError: at once; the delay is not a number of seconds from 0 to a year.
        """
        delay_us = OWN_BACKOFF if delay_seconds is None else checked_delay_us(delay_seconds)
        return self._member._settle(self, "nack", delay_us)

    def extend(self) -> Awaitable[None]:
        """Begin another lease now. The client does so by itself for as long as the application holds the message."""
        return self._member._settle(self, "extend")

    def __repr__(self) -> str:
        return f"GroupMessage(topic={self.topic!r}, offset={self.offset}, key={self.key!r}, attempt={self.attempt})"


class _NotAwaitable(Exception):
    """A handler has returned something that cannot be awaited."""


Handler = Callable[[GroupMessage], Awaitable[object]]


class GroupSubscription(Stream):
    """A member's share of a topic: `async with client.subscribe(topic, group="workers") as messages: async for …`.

    After a restart of the owner, or a broken connection, it becomes a member again by itself. Ends quietly when
    it, or its client, is closed, or after `stop`. Raises from the iteration:
        TopicNotFoundError: the topic was deleted, also when it has been created anew since.
        GroupNotFoundError: the group was deleted.
        InvalidRequestError: it was made anew by somebody, without the order that is asked for here.
        TimeoutExpiredError: the owner could not be reached again within `reconnect_seconds`.
    """

    def __init__(
        self,
        topic: str,
        group: str,
        start: Start,
        max_in_flight: int,
        asked: Mapping[str, Any],
        routes: Routes,
        settings: ClientSettings,
        reconnect_seconds: float | None,
        name: str,
    ) -> None:
        super().__init__(topic, routes, settings, reconnect_seconds)
        self.group = group
        self.options: dict[str, Any] = {}
        """The group's options once connected; those of who made it, whatever was asked for here."""
        self._start, self._at_us = start_fields(start)
        self._max_in_flight = max_in_flight
        self._asked = dict(asked)
        self._name = name
        self._settling: Settling | None = None
        """Of the membership that there is, or that is being asked for."""
        self.late = 0
        """How many messages were settled too late, awaited or not."""
        self._waiting: deque[GroupMessage] = deque()
        """Received, and not yet handed to the application."""
        self._held: dict[tuple[int, int], weakref.ref[GroupMessage]] = {}
        """(offset, attempt) -> what the application has and has not settled, as long as it keeps it."""
        self._stopped = False
        self._lease_timer: asyncio.TimerHandle | None = None
        self._extended_at = 0.0

    # Connecting

    def _request(self, link: Link, route: Route, number: int) -> m.JoinGroup:
        self._settling = Settling(self.topic, link, number, self._settings, self._on_late)
        return m.JoinGroup(
            id=link.next_id(),
            subscription=number,
            topic=self.topic,
            topic_id=route.topic_id,
            group=self.group,
            max_in_flight=self._max_in_flight,
            window_bytes=self._settings.window_bytes,
            options=self._asked,
            start=self._start,
            at_us=self._at_us,
            name=self._name,
        )

    def _begin(self, link: Link, reply: m.Frame) -> int:
        if not isinstance(reply, m.Joined):
            raise RemoteProtocolError(f"unexpected reply to join: {type(reply).__name__}")
        if self._asked.get("ordered") and not reply.options.get("ordered"):
            self._leave()
            end_stream(link, self._number)
            raise InvalidRequestError(
                f"group {self.group} of {self.topic} is not ordered, and stays as it was made: "
                "use another one, or delete it first"
            )
        self.options = reply.options
        for option, value in self._asked.items():
            if reply.options.get(option, value) != value:
                log.warning(
                    "group %s of %s has %s=%s, not %s: options are those of who made the group",
                    *(self.group, self.topic, option, reply.options[option], value),
                )
        self._extended_at = asyncio.get_running_loop().time()
        self._watch_leases()
        return reply.topic_id

    def _interrupted(self) -> None:
        if self._settling is not None:
            self._settling.end(closed=self._closed)
        self._waiting.clear()
        self._held.clear()
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None

    # Receiving

    def _take(self, batch: m.Batch) -> None:
        attempts = batch.attempts or [1] * len(batch.payloads)
        columns = columns_of(self.topic, batch)
        self._waiting.extend(map(GroupMessage, *columns, attempts, repeat(self), repeat(self._settling)))
        if self._stopped:
            self._release()

    def __aiter__(self) -> GroupSubscription:
        return self

    async def __anext__(self) -> GroupMessage:
        if self._stopped or not self._waiting:
            await self._wait()
        message = self._waiting.popleft()
        self._held[message.offset, message.attempt] = weakref.ref(message)
        return message

    async def next_batch(self, most: int | None = None) -> list[GroupMessage]:
        """The messages that have come, at least one and at most `most`.

        Raises:
            InvalidRequestError: `most` is not a number from 1 on.
            StopAsyncIteration: the subscription has been stopped or closed.
        """
        if most is not None and (type(most) is not int or most < 1):
            raise InvalidRequestError(f"next_batch takes a number from 1 on, not {shown(most)}")
        if self._stopped or not self._waiting:
            await self._wait()
        count = len(self._waiting) if most is None else min(most, len(self._waiting))
        messages = [self._waiting.popleft() for _ in range(count)]
        self._held |= {(message.offset, message.attempt): weakref.ref(message) for message in messages}
        return messages

    async def _wait(self) -> None:
        while not self._stopped:
            if self._waiting:
                return
            if self._error is not None:
                raise self._error
            self._more.clear()
            await self._more.wait()
        raise StopAsyncIteration

    async def run(self, handler: Handler, *, concurrency: int = 1) -> None:
        """Call `handler` with each message, until `stop` or `close`.

        A message is acknowledged when its handler returns, and nacked when it raises, which is logged. A handler
        may settle the message itself, with a delay of its own say.

        Args:
            concurrency: How many handlers may run at once; no more than `max_in_flight` ever have a message.

        Raises:
            InvalidRequestError: the handler is no async function, or the concurrency not what it may be.
            PubsubError: what iterating raises. The handlers under way are then cancelled.
        """
        if not callable(handler):
            raise InvalidRequestError(f"a handler is a function that takes a message, not {shown(handler)}")
        if type(concurrency) is not int or not 1 <= concurrency <= self._max_in_flight:
            raise InvalidRequestError(
                f"a concurrency is a number from 1 to max_in_flight ({self._max_in_flight}), not {shown(concurrency)}"
            )
        workers = [
            asyncio.create_task(self._work(handler), name=f"pubsub: handler {n} of {self.topic}/{self.group}")
            for n in range(concurrency)
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, handler: Handler) -> None:
        async for message in self:
            try:
                working = handler(message)
                if not inspect.isawaitable(working):
                    raise _NotAwaitable
                await working
            except _NotAwaitable:
                raise InvalidRequestError(
                    f"a handler is an async function, and {handler!r} is none"
                ) from None
            except Exception:
                log.warning("the handler of group %s failed on %r", self.group, message, exc_info=True)
                how = "nack"
            else:
                how = "ack"
            if not message.settled:
                self._settle(message, how)

    # Settling

    def _settle(self, message: GroupMessage, how: str, delay_us: int = OWN_BACKOFF) -> asyncio.Future[None]:
        if how != "extend":
            msgspec.structs.force_setattr(message, "_settled", True)
            self._held.pop((message.offset, message.attempt), None)
        return message._settling.add(how, message.offset, message.attempt, delay_us)

    def _on_late(self, offset: int, attempt: int, asked: bool) -> None:
        """This delivery is over: if the application has not seen it yet, it never does."""
        self.late += asked
        self._held.pop((offset, attempt), None)
        for message in self._waiting:
            if message.offset == offset and message.attempt == attempt:
                self._waiting.remove(message)
                return

    # Leases

    def _watch_leases(self) -> None:
        interval = self.options["lease_seconds"] / EXTENSIONS_PER_LEASE
        self._lease_timer = asyncio.get_running_loop().call_later(interval, self._extend_leases)

    def _extend_leases(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._extended_at > self.options["lease_seconds"]:
            # This process stood still for longer than a lease: others have these messages by now.
            self._waiting.clear()
        self._extended_at = now
        self._held = {delivery: held for delivery, held in self._held.items() if held() is not None}
        waiting = [(message.offset, message.attempt) for message in self._waiting]
        if self._settling is not None:
            self._settling.tell("extend", [*self._held, *waiting])
        self._watch_leases()

    # Closing

    def stop(self) -> None:
        """Hand out no more messages: iterating and `run` end, handlers under way go on and may settle theirs.

        What was not handed out goes to others at once, and its attempt does not count. Leave the `async with` when
        the last message is settled. Idempotent.
        """
        self._stopped = True
        self._release()
        self._more.set()

    def _release(self) -> None:
        """Give back what is not begun; the owner then gives this member nothing more."""
        if self._settling is not None:
            self._settling.tell("release", [(message.offset, message.attempt) for message in self._waiting])
        self._waiting.clear()

    async def close(self) -> None:
        """Wait for what has been settled, then leave: what is not goes to others at once. Idempotent."""
        self.stop()
        if not self._closed and self._settling is not None:
            await self._settling.drain(CLOSE_SECONDS)
        await super().close()
