"""Messages published for later: held in the table `scheduled`, moved into their topics' logs when they are due.

What is known in memory (how many each topic has, when its first is due) is a copy of rows. One timer waits for the
first of all; what is due moves in rounds, bounded in messages and bytes, in which every topic has its share: into
the log and out of the table in one transaction, so that a message is always in exactly one place. Moving and
cancelling exclude each other: what was cancelled does not come, and what has come cannot be cancelled. Neither of them
waits for copies meanwhile.

The clock is the machine's. It may be set: the timer never sleeps long without a look at it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from pubsub.config import MIB
from pubsub.errors import (
    InvalidRequestError,
    NotOwnerError,
    PubsubError,
    ReadOnlyError,
    ScheduledNotFoundError,
)
from pubsub.model import ScheduledMessage, iso_from_us
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.protocol import messages as m
from pubsub.protocol.batch import decode_headers
from pubsub.storage.scheduled import DueMessages, HeldMessage, count_held, held_of
from pubsub.storage.store import Append
from pubsub.storage.topic import Topic
from pubsub.storage.work import Statement, resolve, run_statements

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

ROUND_TOPICS = 1000
ROUND_MESSAGES = 2000
ROUND_BYTES = 2 * MIB
"""What one round moves at most, all topics together (and one message of each topic at least)."""
LOOK_SECONDS = 1.0
"""The longest sleep while something is held: a clock that was set forward is noticed by then."""
RETRY_SECONDS = 0.5
"""The pause after a round that failed, on a full disk say."""
MOST_IDS = 1000
"""Schedule ids in one cancellation, messages in one list."""
CANCELLED_LOG_BYTES = 500
"""What cancelling one message adds to the write-ahead log, about."""


def now_us() -> int:
    """The machine's clock."""
    return time.time_ns() // 1000


class Held:
    """What is held for a topic. `next_us`: when its first message is due; None while a round looks for it."""

    __slots__ = ("count", "next_us")

    def __init__(self, count: int = 0, next_us: int | None = None) -> None:
        self.count = count
        self.next_us = next_us


class Schedule:
    """Serves Scheduled and CancelScheduled, and moves what is due."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._held: dict[int, Held] = {}
        self._heap: list[tuple[int, int]] = []
        """(when its first message is due, topic id); entries that `_held` does not confirm are old."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = 0
        self._moving: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        """Held by a round of moves and by a cancellation."""
        self._closed = False
        self.immediate: dict[type, ImmediateHandler] = {}
        self.requests: dict[type, RequestHandler] = {
            m.Scheduled: self.on_scheduled,
            m.CancelScheduled: self.on_cancel,
        }
        for topic_id, (count, first_us) in node.store.scheduled.items():
            self._held[topic_id] = Held(count)
            self._expect(topic_id, first_us)

    def start(self) -> None:
        """Begin to move what is due, first of all what became so while nobody was here."""
        self._set_timer()

    async def take_topic(self, topic: Topic) -> None:
        """This peer owns a topic from now on: what is held for it is moved from here.

        It may have taken messages for later already, which are counted in the file. That is looked at in a step: what
        was stored before it has been told here by then, and what is stored after it has not.
        """

        def take(found: tuple[int, int]) -> None:
            count, first_us = found
            if topic.owned and (count or topic.id in self._held):
                self._held.setdefault(topic.id, Held()).count = count
                if count:
                    self._expect(topic.id, first_us)
                    self._set_timer()

        try:
            await self._node.store.step(partial(count_held, topic_id=topic.id), 0, take)
        except ReadOnlyError:  # what is published meanwhile may be counted twice, but all that is held comes
            take(await self._node.store.look(held_of, topic.id))

    def leave_topic(self, topic: Topic) -> None:
        """Another peer moves what is held for a topic."""
        self._held.pop(topic.id, None)

    def count(self, topic: Topic) -> int:
        """How many messages are held for a topic."""
        held = self._held.get(topic.id)
        return 0 if held is None else held.count

    def added(self, topic: Topic, count: int, due_us: int) -> None:
        """So many messages, due then, have been stored."""
        self._held.setdefault(topic.id, Held()).count += count
        self._expect(topic.id, due_us)
        self._set_timer()

    def _expect(self, topic_id: int, due_us: int) -> None:
        held = self._held.get(topic_id)
        if held is None:  # the topic changed hands, or was deleted, while its messages were looked for
            return
        if held.next_us is None or due_us < held.next_us:
            held.next_us = due_us
            heapq.heappush(self._heap, (due_us, topic_id))

    # When

    def _first_us(self) -> int | None:
        """When the first message of all is due."""
        while self._heap:
            due_us, topic_id = self._heap[0]
            held = self._held.get(topic_id)
            if held is not None and held.next_us == due_us:
                return due_us
            heapq.heappop(self._heap)
        return None

    def _set_timer(self, at_least_seconds: float = 0.0) -> None:
        first_us = self._first_us()
        if self._closed or self._moving is not None or first_us is None:
            return
        if self._timer is not None:
            if self._timer_us <= first_us:
                return
            self._timer.cancel()
        self._timer_us = first_us
        seconds = min(LOOK_SECONDS, max(at_least_seconds, (first_us - now_us()) / 1e6))
        self._timer = self._loop.call_later(max(0.0, seconds), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        first_us = self._first_us()
        if first_us is None or first_us > now_us():
            self._set_timer()
            return
        self._moving = self._loop.create_task(self._move_all(), name="pubsub: move scheduled messages")
        self._moving.add_done_callback(self._moved)

    def _moved(self, moving: asyncio.Task[None]) -> None:
        self._moving = None
        failed = not moving.cancelled() and moving.exception() is not None
        if failed:
            log.error("moving scheduled messages failed, to be tried again", exc_info=moving.exception())
        self._set_timer(RETRY_SECONDS if failed else 0.0)

    # Moving

    async def _move_all(self) -> None:
        """Move what is due, in rounds, until nothing is."""
        while topics := self._due_topics():
            async with self._changing:
                moved = await self._move(topics)
            if self._closed:
                return
            if not moved:
                await asyncio.sleep(RETRY_SECONDS)

    def _due_topics(self) -> list[Topic]:
        """The topics of a round, those first that have waited longest. Each is expected again afterwards."""
        topics: list[Topic] = []
        now = now_us()
        while len(topics) < ROUND_TOPICS and (first_us := self._first_us()) is not None and first_us <= now:
            topic_id = heapq.heappop(self._heap)[1]
            topic = self._node.store.by_id.get(topic_id)
            if topic is None or topic.set_aside is not None or topic.role != "owner":
                self._held.pop(topic_id, None)
                continue
            self._held[topic_id].next_us = None
            topics.append(topic)
        return topics

    async def _move(self, topics: list[Topic]) -> bool:
        """One round. False if something of it could not be done."""
        by_id = {topic.id: topic for topic in topics}
        share = max(1, ROUND_MESSAGES // len(topics)), max(1, ROUND_BYTES // len(topics))
        now = now_us()
        try:
            found = await self._node.store.due(list(by_id), now, *share, ROUND_BYTES)
        except BaseException:
            for topic_id in by_id:
                self._expect(topic_id, now)
            raise
        answers = [self._store(by_id[part.topic_id], part) for part in found if part.messages]
        for topic_id in by_id.keys() - {part.topic_id for part in found}:
            self._expect(topic_id, now)  # there was no room for them in this round
        for part in found:
            if not part.messages and part.next_us is not None:
                self._expect(part.topic_id, part.next_us)
        return all(await asyncio.gather(*answers))

    def _store(self, topic: Topic, part: DueMessages) -> asyncio.Future[bool]:
        """Move messages into the log; whether that worked."""
        answered: asyncio.Future[bool] = self._loop.create_future()
        messages = part.messages

        def done(_: Append, first_offset: int, duplicate: bool, error: PubsubError | None) -> None:
            held = self._held.get(topic.id)
            if held is not None and error is None:
                held.count -= len(messages)
                self._node.published_messages += len(messages)
                if part.next_us is not None:
                    self._expect(topic.id, part.next_us)
            elif held is not None and not isinstance(error, NotOwnerError):
                log.warning("scheduled messages of %s are moved later: %s", topic.name, error)
                self._expect(topic.id, messages[0].due_us)
            if not answered.done():
                answered.set_result(error is None)

        keys = [message.key for message in messages]
        headers = [message.headers for message in messages]
        self._node.store.append(
            Append(
                topic_id=topic.id,
                epoch=topic.epoch,
                producer=0,
                sequence=0,
                keys=None if keys.count(None) == len(keys) else keys,
                headers=None if headers.count(None) == len(headers) else headers,
                payloads=[message.payload for message in messages],
                size_bytes=sum(message.size_bytes for message in messages),
                done=done,
                statements=[
                    ("DELETE FROM scheduled WHERE id = ?", [(message.schedule_id,) for message in messages])
                ],
            )
        )
        return answered

    # Requests

    async def on_scheduled(self, connection: ServerConnection, frame: m.Scheduled) -> m.Frame:
        if frame.limit < 1:
            raise InvalidRequestError(f"a limit is a number from 1 on, not {frame.limit}")
        if not (0 <= frame.after_us < 2**63 and 0 <= frame.after_id < 2**63):
            raise InvalidRequestError(
                "a list goes on after a time and a schedule id, neither of them negative"
            )
        topic = self._node.owned(frame.topic)
        after, limit = (frame.after_us, frame.after_id), min(frame.limit, MOST_IDS)
        found = await self._node.store.held(topic, after, limit, self._node.limits.batch_bytes)
        return m.ScheduledList(frame.id, self.count(topic), [_described(topic, message) for message in found])

    async def on_cancel(self, connection: ServerConnection, frame: m.CancelScheduled) -> m.Frame:
        topic = self._node.served(frame.topic)
        wanted = list(dict.fromkeys(frame.schedule_ids))
        if not 0 < len(wanted) <= MOST_IDS or not all(0 < number < 2**63 for number in wanted):
            raise InvalidRequestError(f"cancel 1 to {MOST_IDS} messages at a time, by schedule ids from 1 on")
        gone = await self._cancel(topic, wanted)
        if gone:
            raise _not_held(topic, gone, others=len(gone) < len(wanted))
        return m.Done(frame.id)

    async def _cancel(self, topic: Topic, wanted: list[int]) -> list[int]:
        """Delete what is held, here and on the copies; the ids that are not."""
        async with self._changing:
            there = await self._node.store.held_ids(topic, wanted)
            if there:
                await self._delete(topic, there)
        if there:  # without the lock: what is due of other topics does not wait for copies of this one
            await self._on_copies(topic)
        return [number for number in wanted if number not in set(there)]

    async def _delete(self, topic: Topic, there: list[int]) -> None:
        """A step, for that is answered once it is on this peer's disk."""

        def deleted(_: None) -> None:
            held = self._held.get(topic.id)
            if held is not None:  # the topic may have changed hands meanwhile
                held.count -= len(there)

        rows: list[Statement] = [("DELETE FROM scheduled WHERE id = ?", [(number,) for number in there])]
        change = partial(run_statements, statements=rows)
        await self._node.store.step(change, CANCELLED_LOG_BYTES * len(there), deleted)

    async def _on_copies(self, topic: Topic) -> None:
        """Wait until the copies in sync have what has been changed up to now.

        Raises:
            NotOwnerError: this peer owns the topic no more; whether the change stays is not known.
        """
        stored: asyncio.Future[None] = self._loop.create_future()
        self._node.shipping.wait(topic, lambda error: resolve(stored, None, error))
        await stored

    async def close(self, drain_seconds: float) -> None:
        """Move nothing more; what is under way is finished, if it is so in this time. Idempotent.

        What is left waits in the file.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (moving := self._moving) is not None:
            await asyncio.wait([moving], timeout=drain_seconds)
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)


def _not_held(topic: Topic, gone: list[int], others: bool) -> ScheduledNotFoundError:
    named = ", ".join(map(str, gone[:5])) + (", …" if len(gone) > 5 else "")
    return ScheduledNotFoundError(
        f"topic {topic.name} holds no message under schedule id {named}: delivered, cancelled, or never there"
        + ("; the others were cancelled" if others else ""),
        schedule_ids=gone,
    )


def _described(topic: Topic, message: HeldMessage) -> ScheduledMessage:
    return ScheduledMessage(
        topic=topic.name,
        schedule_id=message.schedule_id,
        deliver_at=iso_from_us(message.due_us),
        key=message.key,
        headers=dict(decode_headers(message.headers)),
        payload=message.payload,
    )
