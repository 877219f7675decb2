"""Streams of many topics from their owners, over one connection to each owner.

Owns the connections and what is asked for on them. Requests are sent without waiting for the answers to those before
them, as many as there are topics. Windows are not used: what a connection carries is bounded by holding its reading
(`hold`), for a thousand topics as for one; so the connections are nobody else's. Which topics there are, and what
becomes of one that is not delivered any more, is left to `Gathering`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Protocol

import msgspec

from pubsub.client.stream import end_stream
from pubsub.errors import PubsubError, RemoteProtocolError, error_from_wire
from pubsub.model import Address
from pubsub.net.link import Link
from pubsub.net.pool import LinkPool
from pubsub.protocol import messages as m
from pubsub.protocol.batch import next_position
from pubsub.protocol.codec import encode_frame

log = logging.getLogger("pubsub.client")

NO_WINDOW = (2**40 - 1, 2**50 - 1)
"""Messages and bytes that an owner may send: no bound."""
_HOLD = "pattern"


class Member:
    """One topic. `link` is set while it is, or is about to be, read; `position` once it has been."""

    __slots__ = (
        "address",
        "at_us",
        "away",
        "failed",
        "flows",
        "gone",
        "link",
        "number",
        "position",
        "reads",
        "start",
        "topic",
        "topic_id",
    )

    def __init__(self, topic: str, topic_id: int, start: int, at_us: int) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.start = start
        self.at_us = at_us
        self.position: int | None = None
        self.address: Address | None = None
        """Where its owner was last."""
        self.link: Link | None = None
        self.number = 0
        self.reads = False
        """Whether its owner has answered."""
        self.flows = False
        """Whether its owner may send."""
        self.away = False
        """An index says that its owner is away, and will say when it is back."""
        self.failed = False
        """Its error has been told: it is not read any more."""
        self.gone = False
        """It was deleted."""


class Listener(Protocol):
    """Who hears of the streams."""

    def on_batch(self, member: Member, batch: m.Batch) -> None:
        """Messages have come."""

    def on_begun(self, member: Member, skipped: int) -> None:
        """Its owner will send; retention took so many messages away that would have been next."""

    def on_refused(self, member: Member, error: PubsubError) -> None:
        """Its owner does not send, or does not go on to: it is not read any more."""

    def on_unreachable(self, members: Iterable[Member]) -> None:
        """No connection to their owner can be made."""

    def on_lost(self, members: Iterable[Member]) -> None:
        """The connection to their owner broke."""


class OwnerStreams:
    """Asks owners for streams, and passes on what they send.

    Args:
        wanted: What to ask for, but for the topic, where to begin, and the windows.
        pool: Used by nobody else.
        spawn: Runs a task, under a name.
    """

    def __init__(
        self,
        wanted: m.Subscribe,
        pool: LinkPool,
        listener: Listener,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._wanted = wanted
        self._pool = pool
        self._listener = listener
        self._spawn = spawn
        self._members: dict[Link, dict[int, Member]] = {}
        """What is read on each connection, by the number of the stream."""
        self._joining: dict[Address, list[Member]] = {}
        """Those that wait for a connection to be made."""
        self._flowing = False
        self._holding = False

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    # Asking

    def join(self, members: Iterable[Member]) -> None:
        """Ask the owners to begin, all of one owner together."""
        for member in members:
            assert member.address is not None
            waiting = self._joining.get(member.address)
            if waiting is None:
                self._joining[member.address] = [member]
                self._spawn(self._connect(member.address), f"pubsub: connect to {member.address}")
            else:
                waiting.append(member)

    async def _connect(self, address: Address) -> None:
        try:
            link = await self._pool.get(address)
        except PubsubError as error:
            log.debug("%s", error)
            self._listener.on_unreachable(self._joining.pop(address))
            return
        if link not in self._members:
            self._members[link] = {}
            link.when_lost(lambda: self._on_lost(link))
            if self._holding:
                link.hold_reading(_HOLD)
        for member in self._joining.pop(address):
            if not member.gone:
                self._ask(link, member)

    def _ask(self, link: Link, member: Member) -> None:
        number = link.next_subscription()
        request = link.next_id()
        member.reads, member.flows = False, self._flowing
        window_messages, window_bytes = NO_WINDOW if self._flowing else (0, 0)
        frame = msgspec.structs.replace(
            self._wanted,
            id=request,
            subscription=number,
            topic=member.topic,
            topic_id=member.topic_id,
            start=member.start if member.position is None else member.position,
            at_us=member.at_us,
            window_messages=window_messages,
            window_bytes=window_bytes,
        )
        member.link, member.number = link, number
        self._members[link][number] = member
        link.streams[number] = partial(self._on_stream, member, number)
        link.call(request, encode_frame(frame), partial(self._on_reply, member, number))

    def leave(self, member: Member) -> None:
        """Read it no more."""
        link = member.link
        if link is not None:
            self._end(member)
            end_stream(link, member.number)

    def _end(self, member: Member) -> None:
        link, member.link = member.link, None
        if link is not None:
            link.streams.pop(member.number, None)
            self._members.get(link, {}).pop(member.number, None)

    # What comes

    def _on_reply(self, member: Member, number: int, reply: m.Frame | PubsubError) -> None:
        if member.number != number or member.link is None:
            return
        if isinstance(reply, m.Subscribed):
            member.position = max(member.position or 0, reply.position)  # messages may have come before
            member.reads = True
            if self._flowing and not member.flows:
                self._let_flow(member)
            self._listener.on_begun(member, reply.skipped)
            return
        self._end(member)
        if not isinstance(reply, PubsubError):
            reply = RemoteProtocolError(f"unexpected reply to subscribe: {type(reply).__name__}")
        self._listener.on_refused(member, reply)

    def _on_stream(self, member: Member, number: int, frame: m.Deliver | m.Ended) -> None:
        if member.number != number or member.link is None:
            return
        if isinstance(frame, m.Deliver):
            member.position = next_position(frame.batch)
            self._listener.on_batch(member, frame.batch)
        else:
            self._end(member)
            self._listener.on_refused(member, error_from_wire(frame.code, frame.message, frame.data))

    def _on_lost(self, link: Link) -> None:
        lost = list(self._members.pop(link).values())
        for member in lost:
            member.link = None
        self._listener.on_lost(lost)

    # How much may come

    def flow(self) -> None:
        """Let owners send: at first they only say where they would begin."""
        self._flowing = True
        for members in self._members.values():
            for member in members.values():
                if member.reads and not member.flows:
                    self._let_flow(member)

    def _let_flow(self, member: Member) -> None:
        assert member.link is not None
        member.flows = True
        member.link.send(encode_frame(m.Credit(member.number, *NO_WINDOW)))

    def hold(self) -> None:
        """Leave what comes unread."""
        self._holding = True
        for link in self._members:
            link.hold_reading(_HOLD)

    def release(self) -> None:
        """Read again."""
        self._holding = False
        for link in self._members:
            link.release_reading(_HOLD)
