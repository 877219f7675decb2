"""Groups of the topics that this peer owns: who is a member of which, and what is asked of them.

A group belongs to its topic and has the options with which it was made; its members come and go. A member is one
subscription of one connection, and ends with it. How a group works is in `group_work`, what it gives up in
`dead_letters`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pubsub.core.dead_letters import dead_letter_topic, is_dead_letter_topic
from pubsub.core.group_options import MOST_DELAY_SECONDS, MOST_IN_FLIGHT, GroupOptions, parse_options
from pubsub.errors import (
    ConflictError,
    GroupNotFoundError,
    InvalidNameError,
    InvalidRequestError,
    NotOwnerError,
    PubsubError,
    TopicNotFoundError,
)
from pubsub.model import check_group_name
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.dead_letters import DeadLetters
from pubsub.peer.group_giving import Seat
from pubsub.peer.group_supply import joined, offsets_of, portion
from pubsub.peer.group_work import GroupWork
from pubsub.peer.positions import find_position
from pubsub.peer.tail import cut
from pubsub.protocol import messages as m
from pubsub.storage.groups import (
    StoredGroup,
    count_dead,
    create_group,
    delete_group,
    forget_dead_letters,
    forget_source,
    load_groups,
    read_offsets,
)
from pubsub.storage.store import Appended
from pubsub.storage.topic import Topic
from pubsub.storage.work import run_statements

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

MEMBER_NAME_MAX_LENGTH = 200
MOST_PEEKED = 1000
MOST_SETTLED = 10_000
"""Deliveries in one Settle: no member has more in flight."""
MOST_GROUPS = 1000
"""Groups of one topic."""
FORGOTTEN_LOG_BYTES = 4096
"""What forgetting dead letters that retention took adds to the write-ahead log, about."""
NEVER = 2**62
"""As `max_attempts`: messages of a dead letter topic are not given up, there is nowhere for them to go."""


class Groups:
    """Serves JoinGroup, Settle, Groups, ChangeGroup and PeekGroup."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._dead_letters = DeadLetters(node)
        self._by_topic: dict[int, dict[str, GroupWork]] = {}
        self._seats: dict[ServerConnection, dict[int, tuple[GroupWork, Seat]]] = {}
        self._joining: set[tuple[ServerConnection, int]] = set()
        self._making = asyncio.Lock()
        self._taking: set[int] = set()
        """Ids of topics of which the groups are being read: nobody is to be told that there are none."""
        for stored in node.store.groups:
            topic = node.store.by_id[stored.topic_id]
            if topic.role == "owner":
                self._add(topic, stored).pump_soon()
        self.immediate: dict[type, ImmediateHandler] = {m.Settle: self.on_settle}
        self.requests: dict[type, RequestHandler] = {
            m.JoinGroup: self.on_join,
            m.Groups: self.on_groups,
            m.ChangeGroup: self.on_change,
            m.PeekGroup: self.on_peek,
        }

    def _add(self, topic: Topic, stored: StoredGroup) -> GroupWork:
        options = parse_options(stored.options)
        if is_dead_letter_topic(topic.name):
            options = msgspec.structs.replace(options, max_attempts=NEVER)
        work = GroupWork(self._node.store, topic, stored, self._node.limits, options, self._dead_letters.bury)
        self._by_topic.setdefault(topic.id, {})[stored.name] = work
        return work

    def _owned(self, name: str, topic_id: int = 0) -> Topic:
        """The topic of this name, if this peer serves its groups.

        Raises:
            TopicNotFoundError, NotOwnerError: as `Node.owned`; also while it only comes to be served here.
        """
        topic = self._node.owned(name, topic_id)
        if topic.id in self._taking:
            raise NotOwnerError(f"topic {name} is changing hands; ask for its owner again")
        return topic

    def _find(self, topic: Topic, name: str) -> GroupWork:
        work = self._by_topic.get(topic.id, {}).get(check_group_name(name))
        if work is None:
            raise GroupNotFoundError(f"topic {topic.name} has no group {name}")
        return work

    # Members

    async def on_join(self, connection: ServerConnection, frame: m.JoinGroup) -> m.Frame | list[m.Frame]:
        asked = _check_join(frame)
        topic = self._owned(frame.topic, frame.topic_id)
        if dead_letter_topic(topic.name) is None and not is_dead_letter_topic(topic.name):
            raise InvalidNameError(
                f"topic {topic.name} can have no groups: the name of its dead letter topic would be too long"
            )
        mine = (connection, frame.subscription)
        if self.has(*mine) or mine in self._joining or self._node.deliveries.find(*mine) is not None:
            raise InvalidRequestError(f"this connection has a subscription {frame.subscription} already")
        if (
            self.count(connection) + self._node.deliveries.count(connection)
            >= self._node.limits.subscriptions
        ):
            raise InvalidRequestError(
                f"at most {self._node.limits.subscriptions} subscriptions on one connection"
            )
        self._joining.add(mine)
        try:
            work = await self._find_or_make(topic, frame, asked)
            if mine not in self._joining:
                raise InvalidRequestError(f"subscription {frame.subscription} was ended before it began")
        finally:
            self._joining.discard(mine)
        if work.ended or not connection.open:
            raise TopicNotFoundError(f"topic {topic.name} was deleted")
        seat = Seat(connection, frame.subscription, frame.name, frame.max_in_flight, frame.window_bytes)
        self._seat(work, seat)
        connection.send_frame(
            m.Joined(
                id=frame.id,
                topic_id=topic.id,
                epoch=topic.epoch,
                options=msgspec.to_builtins(work.options),
            )
        )
        work.pump()
        return []

    async def _find_or_make(self, topic: Topic, frame: m.JoinGroup, asked: GroupOptions) -> GroupWork:
        async with self._making:
            found = self._by_topic.get(topic.id, {}).get(frame.group)
            if found is None:
                found = await self._make(topic, frame, asked)
        async with found.changing:  # whoever resets it, or deletes it, is let finish
            if not found.ended:
                return found
        return await self._find_or_make(topic, frame, asked)

    async def _make(self, topic: Topic, frame: m.JoinGroup, options: GroupOptions) -> GroupWork:
        if len(self._by_topic.get(topic.id, {})) >= MOST_GROUPS:
            raise InvalidRequestError(f"topic {topic.name} has {MOST_GROUPS} groups, which is the most")
        position = await find_position(self._node.store, topic, frame.start, frame.at_us)
        record = msgspec.to_builtins(options)
        now_us = time.time_ns() // 1000
        await self._run(create_group(topic.id, frame.group, position, record, now_us))
        if self._node.store.topics.get(topic.name) is not topic:
            raise TopicNotFoundError(f"topic {topic.name} was deleted")
        return self._add(topic, StoredGroup(topic.id, frame.group, position, record, now_us, [], 0))

    async def _run(self, statements: Any) -> None:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: PubsubError | None) -> None:
            if stored.done():
                return
            if error is not None:
                stored.set_exception(error)
            else:
                stored.set_result(None)

        self._node.store.change(statements, done)
        await stored

    def _seat(self, work: GroupWork, seat: Seat) -> None:
        seats = self._seats.get(seat.connection)
        if seats is None:
            seats = self._seats[seat.connection] = {}
            seat.connection.when_lost(lambda: self._lost(seat.connection))
        seats[seat.number] = (work, seat)
        work.join(seat)

    def _lost(self, connection: ServerConnection) -> None:
        for work, seat in self._seats.pop(connection, {}).values():
            work.leave(seat)

    def has(self, connection: ServerConnection, number: int) -> bool:
        """Whether this subscription of a connection is a member of a group."""
        return number in self._seats.get(connection, ())

    def count(self, connection: ServerConnection | None = None) -> int:
        """How many members there are, on one connection or in all."""
        if connection is not None:
            return len(self._seats.get(connection, ()))
        return sum(map(len, self._seats.values()))

    def leave(self, connection: ServerConnection, number: int) -> None:
        """A subscription ends; one that is no member is fine. What it has goes to others at once."""
        self._joining.discard((connection, number))
        work, seat = self._seats.get(connection, {}).pop(number, (None, None))
        if work is not None and seat is not None:
            work.leave(seat)

    # Settling

    def on_settle(self, connection: ServerConnection, frame: m.Settle) -> None:
        def done(late: list[int], error: PubsubError | None) -> None:
            if error is None:
                connection.send_frame(m.Settled(frame.id, late))
            else:
                connection.refuse(frame.id, error)

        try:
            _check_settle(frame)
            work, seat = self._seats.get(connection, {}).get(frame.subscription, (None, None))
            if work is None or seat is None:  # it was a member of before a restart, or has been ended
                done(list(frame.offsets), None)
            else:
                work.settle(seat, frame, done)
        except PubsubError as error:
            connection.refuse(frame.id, error)

    # Looking

    async def on_groups(self, connection: ServerConnection, frame: m.Groups) -> m.Frame | list[m.Frame]:
        if not frame.topic:
            topics = [t for t in self._node.store.topics.values() if t.role == "owner"]
        else:
            topics = [self._owned(frame.topic)]
        if frame.group:
            works = [self._find(topic, frame.group) for topic in topics]
        else:
            works = [work for topic in topics for work in self._by_topic.get(topic.id, {}).values()]
        return m.GroupList(frame.id, [await work.info() for work in works if not work.ended])

    async def on_peek(self, connection: ServerConnection, frame: m.PeekGroup) -> m.Frame:
        if not 1 <= frame.limit <= MOST_PEEKED:
            raise InvalidRequestError(f"a limit is a number from 1 to {MOST_PEEKED}, not {frame.limit}")
        topic = self._owned(frame.topic)
        work = self._find(topic, frame.group)
        store, group = self._node.store, work.group
        offsets, cursor = group.next_ready(frame.limit), group.cursor
        attempts = {offset: group.entries[offset].attempts for offset in offsets}
        batch: m.Batch | None = None
        if offsets:
            batch, _ = await store.look(read_offsets, topic.id, offsets, self._node.limits.batch_bytes)
        if len(offsets) < frame.limit:
            batch = joined(batch, await store.read(topic, cursor, frame.limit - len(offsets)))
        if batch is not None:
            batch = next(cut(batch, frame.limit, self._node.limits.batch_bytes))
            there = offsets_of(batch)
            batch = portion(batch, list(range(len(there))), [attempts.get(offset, 0) for offset in there])
        return m.QueryResult(
            id=frame.id, topic_id=topic.id, batch=batch, position=cursor, next_offset=topic.committed
        )

    # Changing

    async def on_change(self, connection: ServerConnection, frame: m.ChangeGroup) -> m.Frame:
        topic = self._owned(frame.topic)
        work = self._find(topic, frame.group)
        try:
            async with work.changing:
                if work.ended:
                    raise GroupNotFoundError(f"topic {topic.name} has no group {frame.group}")
                note = await self._change(work, frame)
        finally:
            work.pump_soon()  # no dead letters were made meanwhile
        return m.Done(frame.id, note)

    async def _change(self, work: GroupWork, frame: m.ChangeGroup) -> str:
        match frame.how:
            case "reset":
                return await self._reset(work, frame)
            case "redrive":
                return await self._dead_letters.redrive(work)
            case "delete":
                return await self._delete(work)
        raise InvalidRequestError(f"a group can be changed by reset, redrive or delete, not {frame.how!r}")

    async def _reset(self, work: GroupWork, frame: m.ChangeGroup) -> str:
        position = await find_position(self._node.store, work.topic, frame.start, frame.at_us)
        await work.reset(position)
        # Its members join again: attempts are counted from 1 once more, and only so can nobody take an old
        # delivery for a new one.
        self._unseat(work, ConflictError(f"group {work.name} was reset to offset {position}; join it again"))
        work.pump()
        return f"group {work.name} of {work.topic.name} goes on at offset {position}"

    async def _delete(self, work: GroupWork) -> str:
        await work.stop()
        try:
            await self._run(delete_group(work.topic.id, work.name))
        except BaseException:
            work.go_on()
            raise
        work.end()
        self._by_topic[work.topic.id].pop(work.name, None)
        self._unseat(work, GroupNotFoundError(f"group {work.name} of {work.topic.name} was deleted"))
        note = f"group {work.name} of {work.topic.name} is deleted"
        return note + (f"; its {work.dead} dead letters stay" if work.dead else "")

    def _unseat(self, work: GroupWork, error: PubsubError) -> None:
        for seat in work.end_members(error):
            self._seats.get(seat.connection, {}).pop(seat.number, None)

    # What happens to topics

    def on_append(self, topic: Topic, appended: Appended) -> None:
        """A commit added messages to a topic."""
        works = self._by_topic.get(topic.id)
        if works:
            for work in works.values():
                work.on_append(appended)

    def has_groups(self, topic: Topic) -> bool:
        """Whether anybody reads a topic as a group."""
        return topic.id in self._by_topic

    def on_committed(self, topic: Topic) -> None:
        """More of a replicated topic is committed."""
        for work in self._by_topic.get(topic.id, {}).values():
            work.pump_soon()

    @contextmanager
    def taking(self, topic: Topic) -> Iterator[None]:
        """While this peer comes to own a topic, perhaps, until `take_topic` has been called."""
        self._taking.add(topic.id)
        try:
            yield
        finally:
            self._taking.discard(topic.id)

    async def take_topic(self, topic: Topic) -> None:
        """This peer owns a topic from now on: its groups go on as they are stored."""
        for stored in await self._node.store.look(load_groups, topic.id):
            if topic.owned and stored.name not in self._by_topic.get(topic.id, {}):
                self._add(topic, stored).pump_soon()

    def end_topic(self, topic: Topic, error: PubsubError) -> None:
        """A topic is served no more: so are its groups."""
        self.leave_topic(topic, error)
        self._forget(forget_source(topic.id))

    def leave_topic(self, topic: Topic, error: PubsubError) -> None:
        """Another peer owns a topic now, and serves its groups."""
        for work in self._by_topic.pop(topic.id, {}).values():
            work.end()
            self._unseat(work, error)

    def _forget(self, statements: Any) -> None:
        def done(error: PubsubError | None) -> None:
            if error is not None:
                log.warning("rows of dead letters were left behind: %s", error)

        self._node.store.change(statements, done)

    async def on_first_offset(self, topic: Topic) -> None:
        """Retention moved the first kept offset of a topic."""
        for work in self._by_topic.get(topic.id, {}).values():
            work.keep_from(topic.first_offset)
        if is_dead_letter_topic(topic.name):
            # A step, for this need not be known to the copies of the topics that they came from before it goes on.
            rows = forget_dead_letters(topic.id, topic.first_offset)
            await self._node.store.step(partial(run_statements, statements=rows), FORGOTTEN_LOG_BYTES)
            await self.count_dead(topic)

    async def count_dead(self, dead: Topic) -> None:
        """A topic, of dead letters perhaps, has lost some or all of its messages."""
        for works in list(self._by_topic.values()):
            for work in list(works.values()):
                if dead_letter_topic(work.topic.name) == dead.name:
                    work.dead = await self._node.store.look(count_dead, work.topic.id, work.name)

    def by_topic(self) -> dict[str, dict[str, int]]:
        """Topic -> group and name of a member -> since when, for the registry."""
        found: dict[str, dict[str, int]] = {}
        for seats in self._seats.values():
            for work, seat in seats.values():
                found.setdefault(work.topic.name, {})[f"{work.name}: {seat.id}"] = seat.since_us
        return found

    def floor(self, topic: Topic) -> int | None:
        """The lowest offset that a group of a topic has not done with; None where it has no groups."""
        return min((work.floor() for work in self._by_topic.get(topic.id, {}).values()), default=None)

    def close(self) -> None:
        """Do nothing any more; what was begun is in the rows."""
        for works in self._by_topic.values():
            for work in works.values():
                work.pump()
                work.end()


def _check_join(frame: m.JoinGroup) -> GroupOptions:
    check_group_name(frame.group)
    if len(frame.name) > MEMBER_NAME_MAX_LENGTH:  # it stands in the row of each message that is in flight
        raise InvalidRequestError(
            f"the name of a member has at most {MEMBER_NAME_MAX_LENGTH} characters, not {len(frame.name)}"
        )
    if not 0 <= frame.subscription < 2**32:
        raise InvalidRequestError("a subscription is numbered from 0 to 2^32 - 1")
    if not 1 <= frame.max_in_flight <= MOST_IN_FLIGHT:
        raise InvalidRequestError(
            f"max_in_flight is a number from 1 to {MOST_IN_FLIGHT}, not {frame.max_in_flight}"
        )
    if not 1 <= frame.window_bytes < 2**50:
        raise InvalidRequestError("the window of a member is a number of bytes from 1 on")
    return parse_options(frame.options)


def _check_settle(frame: m.Settle) -> None:
    if len(frame.offsets) != len(frame.attempts):
        raise InvalidRequestError(
            f"{len(frame.offsets)} offsets and {len(frame.attempts)} attempts name no deliveries"
        )
    if len(frame.offsets) > MOST_SETTLED:
        raise InvalidRequestError(f"at most {MOST_SETTLED} messages can be settled at once")
    if not -1 <= frame.delay_us <= MOST_DELAY_SECONDS * 1_000_000:
        raise InvalidRequestError(
            f"a delay is at most {MOST_DELAY_SECONDS / 86_400:.0f} days, and not negative"
        )
