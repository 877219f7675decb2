"""The topics that a pattern means, and a stream from each: those there are, and those that come.

Owns which topics these are, where each has got to, and the connections: one to each owner, of this pattern's own, so
that what the application leaves untaken can be left unread, and holds up nobody else. Windows are not used: what one
connection carries is bounded by holding its reading (`hold`), for a thousand topics as for one.

An index tells of topics that come; a list of all is read at the start and whenever changes may have been missed.
That a topic is missing from a list means nothing, since a registry may be young; that it was deleted is said by its
owner, by a change, or by a look-up. A topic that was not there at the start is read from its beginning, and so is one
that was created anew. After a lost connection everybody goes on at the next offset: at first where the owner was, then,
with pauses, where an index says that it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from pubsub.client.directory import Directory
from pubsub.client.routes import Routes, topics_in
from pubsub.client.stream import end_stream
from pubsub.client.watching import watch_changes
from pubsub.config import ClientSettings
from pubsub.errors import (
    InternalError,
    OffsetOutOfRangeError,
    PubsubError,
    RemoteProtocolError,
    TimeoutExpiredError,
    TopicNotFoundError,
    TopicOfflineError,
    error_from_wire,
)
from pubsub.model import Address, Change, TopicInfo
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link
from pubsub.net.pool import LinkPool
from pubsub.protocol import messages as m
from pubsub.protocol.batch import next_position
from pubsub.protocol.codec import encode_frame

log = logging.getLogger("pubsub.client")

LIST_SECONDS = 2.0
"""How long an index is asked where lost topics are, before they are tried again where they were."""
AWAY_SECONDS = 10.0
"""How often an index is asked about topics of which it says that their owners are away: it tells when they are back."""
NO_WINDOW = (2**40 - 1, 2**50 - 1)
"""Messages and bytes that an owner may send: no bound."""
_HOLD = "pattern"


class Member:
    """One topic. `link` is set while it is, or is about to be, read; `position` once it has been."""

    __slots__ = (
        "address",
        "away",
        "failed",
        "flows",
        "link",
        "number",
        "position",
        "reads",
        "start",
        "topic",
        "topic_id",
    )

    def __init__(self, topic: str, topic_id: int, start: int) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.start = start
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


class Gathering:
    """Streams of all topics that a pattern means.

    Args:
        wanted: What to ask an owner for, of a topic that is there at the start; but for its name and the windows.
        directory, pool: Used by nobody else, and closed in the end.
        take: Gets each batch with its topic's name.
        skipped: Gets how many messages retention took away before they could be read.
        fail: Gets the error of one topic, or what ends all of it (`final`).
    """

    def __init__(
        self,
        pattern: str,
        wanted: m.Subscribe,
        *,
        directory: Directory,
        routes: Routes,
        pool: LinkPool,
        settings: ClientSettings,
        take: Callable[[str, m.Batch], None],
        skipped: Callable[[int], None],
        fail: Callable[[PubsubError, bool], None],
    ) -> None:
        self.pattern = pattern
        self.members: dict[str, Member] = {}
        self._wanted = wanted
        self._directory = directory
        self._routes = routes
        self._pool = pool
        self._settings = settings
        self._take = take
        self._skipped = skipped
        self._fail = fail
        self._links: set[Link] = set()
        self._holding = False
        self._flowing = False
        """Whether owners may send: once every topic that is there at the start is being read."""
        self._joining: dict[Address, list[Member]] = {}
        """Those that wait for a connection to be made."""
        self._lost: dict[str, Member] = {}
        """Those whose owner is away, or cannot be reached."""
        self._awaited: set[Member] = set()
        """Those that `open` waits for."""
        self._answered = asyncio.Event()
        self._listed = asyncio.Event()
        self._urgent = asyncio.Event()
        """Set when a topic is lost of which no index says that its owner is away."""
        self._backoff = Backoff(settings.backoff_first_seconds, settings.backoff_most_seconds)
        self._recovery: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: PubsubError | None = None
        self._closed = False

    # Opening and closing

    async def open(self, timeout_seconds: float) -> None:
        """Read every topic that is there and whose owner is; go on to gather.

        Raises:
            PubsubError: no index could be asked in time, or a topic's owner did not answer.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        await self._directory.request(m.Peers)  # where nobody can be asked, this says why
        self._spawn(self._follow(), f"pubsub: topics of {self.pattern}")
        try:
            async with asyncio.timeout_at(deadline):
                await self._listed.wait()
                while self._awaited and self._failure is None:
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            silent = next((member.topic for member in self._awaited), None)
            what = f"the owner of topic {silent}" if silent else "the index"
            raise TimeoutExpiredError(
                f"{self.pattern}: {what} did not answer within {timeout_seconds:g} s"
            ) from None
        if self._failure is not None:
            raise self._failure
        # Only now: until the application takes messages, what comes might have to be held, and the answers with it.
        self._flowing = True
        for member in self.members.values():
            if member.link is not None and member.reads and not member.flows:
                self._let_flow(member)

    async def close(self) -> None:
        """Read nothing more. Idempotent."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()
        await self._directory.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or self._closed or (error := task.exception()) is None:
            return
        if not isinstance(error, PubsubError):
            log.error("gathering the topics of %s failed", self.pattern, exc_info=error)
            error = InternalError(f"reading {self.pattern} failed inside pubsub; see the log")
        self._failure = error
        self._listed.set()
        self._answered.set()
        self._fail(error, True)

    # Which topics

    async def _follow(self) -> None:
        watching = watch_changes(self._directory, self._settings, self.pattern, lambda: self._closed)
        async with aclosing(watching) as changes:
            async for change in changes:
                if change.kind == "resync":
                    await self._list_all()
                elif change.kind == "topic":
                    self._on_change(change)

    async def _list_all(self) -> None:
        """See which topics there are."""
        while True:
            try:
                topics = await self._list(self._settings.timeout_seconds)
                break
            except PubsubError as error:
                if not error.retriable:
                    raise
                log.debug("listing %s again: %s", self.pattern, error)
                await asyncio.sleep(self._settings.backoff_most_seconds)
        for info in topics:
            self._consider(info, waited_for=not self._listed.is_set())
        self._listed.set()

    async def _list(self, timeout_seconds: float) -> list[TopicInfo]:
        return topics_in(
            await self._directory.request(
                lambda request: m.Topics(request, self.pattern, offsets=False), timeout_seconds
            )
        )

    def _on_change(self, change: Change) -> None:
        if change.topic is not None:
            self._consider(change.topic)
        elif change.name in self._lost:
            self._forget(self.members[change.name])
        # One that is being read is ended by its owner, once all of it has been sent.

    def _consider(self, info: TopicInfo, *, waited_for: bool = False) -> None:
        """Read a topic, unless it is being read."""
        member = self.members.get(info.topic)
        if member is None or member.topic_id != info.id:
            if member is not None:
                self._forget(member)
            start = self._wanted.start if waited_for and member is None else m.EARLIEST
            member = self.members[info.topic] = Member(info.topic, info.id, start)
            if waited_for:
                self._awaited.add(member)
        elif info.topic not in self._lost:
            return
        try:
            member.address = self._routes.route(info).address
        except TopicOfflineError:
            member.away = True
            self._lose([member])
            self._settle(member)
        else:
            member.away = False
            self._join([member])

    def _forget(self, member: Member) -> None:
        """It is not there any more."""
        if self.members.get(member.topic) is member:
            del self.members[member.topic]
        self._lost.pop(member.topic, None)
        self._leave(member)
        self._settle(member)

    def _settle(self, member: Member) -> None:
        """`open` need not wait for it any longer."""
        if member in self._awaited:
            self._awaited.discard(member)
            if not self._awaited:
                self._answered.set()

    # Their owners

    def _join(self, members: Iterable[Member]) -> None:
        """Ask the owners to begin, all of one owner together."""
        for member in members:
            assert member.address is not None
            self._lost.pop(member.topic, None)
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
            log.debug("%s: %s", self.pattern, error)
            self._lose(self._joining.pop(address))
            return
        if link not in self._links:
            self._links.add(link)
            link.when_lost(lambda: self._on_lost(link))
            if self._holding:
                link.hold_reading(_HOLD)
        for member in self._joining.pop(address):
            if self.members.get(member.topic) is member:
                self._ask(link, member)

    def _ask(self, link: Link, member: Member) -> None:
        """Ask for a stream, without waiting: the answers come when they come, as many as there are topics."""
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
            window_messages=window_messages,
            window_bytes=window_bytes,
        )
        member.link, member.number = link, number
        link.streams[number] = partial(self._on_stream, member, number)
        link.call(request, encode_frame(frame), partial(self._on_reply, member, number))

    def _let_flow(self, member: Member) -> None:
        assert member.link is not None
        member.flows = True
        member.link.send(encode_frame(m.Credit(member.number, *NO_WINDOW)))

    def _leave(self, member: Member) -> None:
        link, member.link = member.link, None
        if link is not None and link.streams.pop(member.number, None) is not None:
            end_stream(link, member.number)

    def _on_reply(self, member: Member, number: int, reply: m.Frame | PubsubError) -> None:
        if member.number != number or member.link is None:
            return
        if isinstance(reply, m.Subscribed):
            self._backoff.reset()
            if reply.skipped:
                log.warning(
                    "retention took %d messages of topic %s away before they were read: going on at offset %d",
                    *(reply.skipped, member.topic, reply.position),
                )
                self._skipped(reply.skipped)
            member.position = max(member.position or 0, reply.position)  # messages may have come before
            member.reads = True
            if self._flowing and not member.flows:
                self._let_flow(member)
            self._settle(member)
        elif isinstance(reply, PubsubError):
            self._refused(member, reply)
        else:
            self._refused(member, RemoteProtocolError(f"unexpected reply to subscribe: {reply!r}"))

    def _on_stream(self, member: Member, number: int, frame: m.Deliver | m.Ended) -> None:
        if member.number != number or member.link is None:
            return
        if isinstance(frame, m.Deliver):
            member.position = next_position(frame.batch)
            self._take(member.topic, frame.batch)
            return
        member.link.streams.pop(number, None)
        self._refused(member, error_from_wire(frame.code, frame.message, frame.data))

    def _refused(self, member: Member, error: PubsubError) -> None:
        """An owner does not send, or go on to send, what was asked for."""
        if member.link is not None:
            member.link.streams.pop(member.number, None)
        overtaken = isinstance(error, OffsetOutOfRangeError) and error.data.get("first_offset", 0)
        deleted = isinstance(
            error, TopicNotFoundError
        )  # or not there yet: an index tells, and either is quiet
        if (
            deleted
            or error.retriable
            or (self._wanted.skip_lost and overtaken and overtaken > (member.position or 0))
        ):
            self._lose([member])
        else:
            member.link, member.failed = None, True
            self._settle(member)
            self._fail(error, False)

    # Losing and finding them again

    def _on_lost(self, link: Link) -> None:
        """A connection broke: the owner may be back at once, where it was."""
        self._links.discard(link)
        lost = [member for member in self.members.values() if member.link is link]
        for member in lost:
            member.link = None
        if not self._closed:
            self._join(lost)

    def _lose(self, members: Iterable[Member]) -> None:
        for member in members:
            if self.members.get(member.topic) is member and not member.failed:
                member.link = None
                self._lost[member.topic] = member
                if not member.away:
                    self._urgent.set()
        if self._lost and self._recovery is None and not self._closed:
            self._recovery = self._spawn(self._recover(), f"pubsub: find topics of {self.pattern} again")
            self._recovery.add_done_callback(self._recovered)

    def _recovered(self, recovery: asyncio.Task[None]) -> None:
        self._recovery = None
        if not recovery.cancelled() and recovery.exception() is None:
            self._lose(())

    async def _recover(self) -> None:
        """Ask an index where the lost topics are, after a pause; without one, try where they were."""
        if all(member.away for member in self._lost.values()):
            self._urgent.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AWAY_SECONDS):
                    await self._urgent.wait()
        await asyncio.sleep(self._backoff.next_seconds())
        lost = list(self._lost.values())
        try:
            found = {info.topic: info for info in await self._list(LIST_SECONDS)}
        except PubsubError as error:
            if not error.retriable:
                raise
            self._join([member for member in lost if member.address is not None and self._is_lost(member)])
            return
        for member in lost:
            if not self._is_lost(member):
                continue
            if member.topic in found:
                self._consider(found[member.topic])
            else:
                await self._look_up(member)

    def _is_lost(self, member: Member) -> bool:
        return self._lost.get(member.topic) is member

    async def _look_up(self, member: Member) -> None:
        """Missing from a list: was it deleted?"""
        try:
            info = await self._routes.look_up(member.topic, LIST_SECONDS)
        except TopicNotFoundError:
            if self._is_lost(member):
                self._forget(member)
        except PubsubError as error:
            log.debug("%s: %s", member.topic, error)
        else:
            self._consider(info)

    # Holding

    def hold(self) -> None:
        """Leave what comes unread."""
        self._holding = True
        for link in self._links:
            link.hold_reading(_HOLD)

    def release(self) -> None:
        """Read again."""
        self._holding = False
        for link in self._links:
            link.release_reading(_HOLD)
