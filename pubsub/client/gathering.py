"""The topics that a pattern means: those there are, and those that come. Each is read, from where it belongs.

An index tells of topics that come; a list of all is read at the start and whenever changes may have been missed.
That a topic is missing from a list means nothing, since a registry may be young; that it was deleted is said by a
change, or by a look-up. A topic that was not there at the start is read from its beginning, and so is one that was
created anew. After a lost connection everybody goes on at the next offset: at first where the owner was, then, with
pauses, where an index says that it is. How topics are read from their owners is left to `OwnerStreams`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any

from pubsub.client.directory import Directory
from pubsub.client.owner_streams import Member, OwnerStreams
from pubsub.client.routes import Routes, topics_in
from pubsub.client.watching import watch_changes
from pubsub.config import ClientSettings
from pubsub.errors import (
    InternalError,
    OffsetOutOfRangeError,
    PubsubError,
    TimeoutExpiredError,
    TopicNotFoundError,
    TopicOfflineError,
)
from pubsub.model import Change, TopicInfo
from pubsub.net.backoff import Backoff
from pubsub.net.pool import LinkPool
from pubsub.protocol import messages as m

log = logging.getLogger("pubsub.client")

LIST_SECONDS = 2.0
"""How long an index is asked where lost topics are, before they are tried again where they were."""
AWAY_SECONDS = 10.0
"""How often an index is asked about topics of which it says that their owners are away: it tells when they are back."""


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
        self._streams = OwnerStreams(wanted, pool, self, self._spawn)
        self._settings = settings
        self._take = take
        self._skipped = skipped
        self._fail = fail
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
        self._entered_us = 0
        self._closed = False

    # Opening and closing

    async def open(self, timeout_seconds: float) -> None:
        """Read every topic that is there and whose owner is; go on to gather.

        Raises:
            PubsubError: no index could be asked in time, or a topic's owner did not answer.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        self._entered_us = time.time_ns() // 1000
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
        self._streams.flow()

    async def close(self) -> None:
        """Read nothing more. Idempotent."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._streams.close()
        await self._directory.close()

    def hold(self) -> None:
        """Leave what comes unread."""
        self._streams.hold()

    def release(self) -> None:
        """Read again."""
        self._streams.release()

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
            member = self.members[info.topic] = Member(info.topic, info.id, start, self._wanted.at_us)
            if waited_for:
                self._awaited.add(member)
        elif info.topic not in self._lost:
            return
        try:
            member.address = self._routes.route(info).address
        except TopicOfflineError:
            member.away = True
            if member.start == m.LATEST and member.position is None:
                # What is published while it is away is to be seen too; the clocks decide where that begins.
                member.start, member.at_us = m.AT_TIME, self._entered_us
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
        member.gone = True
        self._streams.leave(member)
        self._settle(member)

    def _settle(self, member: Member) -> None:
        """`open` need not wait for it any longer."""
        if member in self._awaited:
            self._awaited.discard(member)
            if not self._awaited:
                self._answered.set()

    # What their owners say

    def on_batch(self, member: Member, batch: m.Batch) -> None:
        self._take(member.topic, batch)

    def on_begun(self, member: Member, skipped: int) -> None:
        self._backoff.reset()
        if skipped:
            log.warning(
                "retention took %d messages of topic %s away before they were read: going on at offset %d",
                *(skipped, member.topic, member.position),
            )
            self._skipped(skipped)
        self._settle(member)

    def on_refused(self, member: Member, error: PubsubError) -> None:
        overtaken = isinstance(error, OffsetOutOfRangeError) and error.data.get("first_offset", 0)
        skips = self._wanted.skip_lost and overtaken and overtaken > (member.position or 0)
        # One that is not found was deleted, or is not there yet: an index tells, and either is quiet.
        if error.retriable or skips or isinstance(error, TopicNotFoundError):
            self._lose([member])
        else:
            member.failed = True
            self._settle(member)
            self._fail(error, False)

    def on_unreachable(self, members: Iterable[Member]) -> None:
        self._lose(members)

    def on_lost(self, members: Iterable[Member]) -> None:
        """The owner may be back at once, where it was."""
        if not self._closed:
            self._streams.join([member for member in members if not member.gone])

    # Losing and finding them again

    def _lose(self, members: Iterable[Member]) -> None:
        for member in members:
            if self.members.get(member.topic) is member and not member.failed:
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

    def _join(self, members: Iterable[Member]) -> None:
        """Read topics that are not lost any more."""
        for member in members:
            self._lost.pop(member.topic, None)
            self._streams.join([member])

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
