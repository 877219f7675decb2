"""What is asked of the groups of this peer's topics: to join one, to settle, to look at it, to change it.

Which groups there are is in `groups`, who their members are in `group_members`, how one works in `group_work`, and
what is given up in `dead_letters`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pubsub.core.dead_letters import dead_letter_topic, is_dead_letter_topic
from pubsub.core.group_options import MOST_DELAY_SECONDS, MOST_IN_FLIGHT, GroupOptions, parse_options
from pubsub.errors import (
    ConflictError,
    GroupNotFoundError,
    InvalidNameError,
    InvalidRequestError,
    PubsubError,
)
from pubsub.model import check_group_name
from pubsub.net.server import ImmediateHandler, RequestHandler, ServerConnection
from pubsub.peer.group_giving import Seat
from pubsub.peer.group_supply import joined, offsets_of, portion
from pubsub.peer.group_work import GroupWork
from pubsub.peer.positions import find_position
from pubsub.peer.tail import cut
from pubsub.protocol import messages as m
from pubsub.protocol.batch import batch_bytes, next_position
from pubsub.storage.groups import read_offsets

if TYPE_CHECKING:
    from pubsub.peer.node import Node
    from pubsub.storage.topic import Topic

MEMBER_NAME_MAX_LENGTH = 200
MOST_PEEKED = 1000
MOST_SETTLED = 10_000
"""Deliveries in one Settle: no member has more in flight."""


class GroupRequests:
    """Serves JoinGroup, Settle, Groups, ChangeGroup and PeekGroup."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._groups = node.groups
        self._members = node.members
        self.immediate: dict[type, ImmediateHandler] = {m.Settle: self.on_settle}
        self.requests: dict[type, RequestHandler] = {
            m.JoinGroup: self.on_join,
            m.Groups: self.on_groups,
            m.ChangeGroup: self.on_change,
            m.PeekGroup: self.on_peek,
        }

    # Joining

    async def on_join(self, connection: ServerConnection, frame: m.JoinGroup) -> m.Frame | list[m.Frame]:
        asked = _check_join(frame)
        topic = self._node.served(frame.topic, frame.topic_id)
        if dead_letter_topic(topic.name) is None and not is_dead_letter_topic(topic.name):
            raise InvalidNameError(
                f"topic {topic.name} can have no groups: the name of its dead letter topic would be too long"
            )
        with self._node.numbers.beginning(connection, frame.subscription) as check_wanted:
            work = await self._groups.find_or_make(topic, frame.group, asked, frame.start, frame.at_us)
            check_wanted()
        if not connection.open:
            return []
        seat = Seat(connection, frame.subscription, frame.name, frame.max_in_flight, frame.window_bytes)
        self._members.seat(work, seat)
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

    # Settling

    def on_settle(self, connection: ServerConnection, frame: m.Settle) -> None:
        def done(late: list[int], error: PubsubError | None) -> None:
            if error is None:
                connection.send_frame(m.Settled(frame.id, late))
            else:
                connection.refuse(frame.id, error)

        try:
            _check_settle(frame)
            member = self._members.find(connection, frame.subscription)
            if member is None:  # it was a member of before a restart, or has been ended
                done(list(frame.offsets), None)
            else:
                work, seat = member
                work.settle(seat, frame, done)
        except PubsubError as error:
            connection.refuse(frame.id, error)

    # Looking

    async def on_groups(self, connection: ServerConnection, frame: m.Groups) -> m.Frame | list[m.Frame]:
        if not frame.topic:
            topics = [t for t in self._node.store.topics.values() if t.role == "owner"]
        else:
            topics = [self._node.served(frame.topic)]
        if frame.group:
            works = [self._groups.find(topic, frame.group) for topic in topics]
        else:
            works = [work for topic in topics for work in self._groups.of(topic)]
        return m.GroupList(frame.id, [await work.info() for work in works if not work.ended])

    async def on_peek(self, connection: ServerConnection, frame: m.PeekGroup) -> m.Frame:
        if not 1 <= frame.limit <= MOST_PEEKED:
            raise InvalidRequestError(f"a limit is a number from 1 to {MOST_PEEKED}, not {frame.limit}")
        topic = self._node.served(frame.topic)
        work = self._groups.find(topic, frame.group)
        store, group = self._node.store, work.group
        offsets, cursor = group.next_ready(frame.limit), group.cursor
        attempts = {offset: group.entries[offset].attempts for offset in offsets}
        batch: m.Batch | None = None
        if offsets:
            batch, _ = await store.look(read_offsets, topic.id, offsets, self._node.limits.batch_bytes)
        if len(offsets) < frame.limit:
            batch = joined(batch, await self._new(topic, cursor, frame.limit - len(offsets)))
        if batch is not None:
            batch = next(cut(batch, frame.limit, self._node.limits.batch_bytes))
            there = offsets_of(batch)
            batch = portion(batch, list(range(len(there))), [attempts.get(offset, 0) for offset in there])
        return m.QueryResult(
            id=frame.id, topic_id=topic.id, batch=batch, position=cursor, next_offset=topic.committed
        )

    async def _new(self, topic: Topic, position: int, limit: int) -> m.Batch | None:
        """So many messages from a position on, or as many as one frame takes; a read may bring fewer."""
        batch: m.Batch | None = None
        while limit and (batch is None or batch_bytes(batch) < self._node.limits.batch_bytes):
            more = await self._node.store.read(topic, position, limit)
            if more is None:
                break
            batch, position = joined(batch, more), next_position(more)
            limit -= len(more.payloads)
        return batch

    # Changing

    async def on_change(self, connection: ServerConnection, frame: m.ChangeGroup) -> m.Frame:
        topic = self._node.served(frame.topic)
        work = self._groups.find(topic, frame.group)
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
                return await self._node.dead_letters.redrive(work)
            case "delete":
                return await self._delete(work)
        raise InvalidRequestError(f"a group can be changed by reset, redrive or delete, not {frame.how!r}")

    async def _reset(self, work: GroupWork, frame: m.ChangeGroup) -> str:
        position = await find_position(self._node.store, work.topic, frame.start, frame.at_us)
        await work.reset(position)
        # Its members join again: attempts are counted from 1 once more, and only so can nobody take an old
        # delivery for a new one.
        self._members.unseat(
            work, ConflictError(f"group {work.name} was reset to offset {position}; join it again")
        )
        work.pump()
        return f"group {work.name} of {work.topic.name} goes on at offset {position}"

    async def _delete(self, work: GroupWork) -> str:
        await self._groups.delete(work)
        note = f"group {work.name} of {work.topic.name} is deleted"
        return note + (f"; its {work.dead} dead letters stay" if work.dead else "")


def _check_join(frame: m.JoinGroup) -> GroupOptions:
    check_group_name(frame.group)
    if len(frame.name) > MEMBER_NAME_MAX_LENGTH:  # it stands in the row of each message that is in flight
        raise InvalidRequestError(
            f"the name of a member has at most {MEMBER_NAME_MAX_LENGTH} characters, not {len(frame.name)}"
        )
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
