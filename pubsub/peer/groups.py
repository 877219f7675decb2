"""The groups of the topics that this peer owns, as topics come, go, change hands and are trimmed.

A group belongs to its topic and has the options with which it was made; it goes on as it is stored when its topic
comes here, and ends here when its topic goes. How a group works is in `group_work`, who its members are in
`group_members`, what is asked of it in `group_requests`, and what it gives up in `dead_letters`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pubsub.core.dead_letters import dead_letter_topic, is_dead_letter_topic
from pubsub.core.group_options import GroupOptions, parse_options
from pubsub.errors import (
    GroupNotFoundError,
    InvalidRequestError,
    PubsubError,
)
from pubsub.model import check_group_name
from pubsub.peer.group_work import GroupWork
from pubsub.peer.keyed_locks import KeyedLocks
from pubsub.peer.positions import find_position
from pubsub.storage.groups import (
    StoredGroup,
    count_dead,
    create_group,
    delete_group,
    forget_dead_letters,
    forget_source,
    load_groups,
)
from pubsub.storage.store import Appended, Statement
from pubsub.storage.topic import Topic
from pubsub.storage.work import run_statements

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

MOST_GROUPS = 1000
"""Groups of one topic."""
FORGOTTEN_LOG_BYTES = 4096
"""What forgetting dead letters that retention took adds to the write-ahead log, about."""
NEVER = 2**62
"""As `max_attempts`: messages of a dead letter topic are not given up, there is nowhere for them to go."""


class Groups:
    """See the module's text; called in the event loop only."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._by_topic: dict[int, dict[str, GroupWork]] = {}
        self._making = KeyedLocks()
        """By topic id."""
        for stored in node.store.groups:
            topic = node.store.by_id[stored.topic_id]
            if topic.role == "owner":
                self._add(topic, stored).pump_soon()

    # Which there are

    def of(self, topic: Topic) -> Collection[GroupWork]:
        """The groups of a topic."""
        return self._by_topic.get(topic.id, {}).values()

    def has_groups(self, topic: Topic) -> bool:
        """Whether anybody reads a topic as a group."""
        return topic.id in self._by_topic

    def find(self, topic: Topic, name: str) -> GroupWork:
        """The group of this name of a topic.

        Raises:
            GroupNotFoundError: there is none.
            InvalidNameError: no group can be called that.
        """
        work = self._find(topic, check_group_name(name))
        if work is None:
            raise GroupNotFoundError(f"topic {topic.name} has no group {name}")
        return work

    def floor(self, topic: Topic) -> int | None:
        """The lowest offset that a group of a topic has not done with; None where it has no groups. While the topic
        changes hands, 0: they are not known.
        """
        if topic.id in self._node.changing_hands:
            return 0
        return min((work.floor() for work in self.of(topic)), default=None)

    # Making and deleting

    async def find_or_make(
        self, topic: Topic, name: str, options: GroupOptions, start: int, at_us: int
    ) -> GroupWork:
        """The group of this name of a topic; one that is made has these options, and begins as `find_position` says.

        Raises:
            InvalidRequestError: the topic has as many groups as it may have.
            PubsubError: the group could not be stored, or the topic has changed hands or was deleted meanwhile.
        """
        while True:
            found = self._find(topic, name)
            if found is None:
                async with self._making.hold(topic.id):
                    found = self._find(topic, name) or await self._make(topic, name, options, start, at_us)
            async with found.changing:  # whoever resets it, or deletes it, is let finish
                if not found.ended:
                    return found

    def _find(self, topic: Topic, name: str) -> GroupWork | None:
        return self._by_topic.get(topic.id, {}).get(name)

    async def _make(
        self, topic: Topic, name: str, options: GroupOptions, start: int, at_us: int
    ) -> GroupWork:
        if len(self.of(topic)) >= MOST_GROUPS:
            raise InvalidRequestError(f"topic {topic.name} has {MOST_GROUPS} groups, which is the most")
        position = await find_position(self._node.store, topic, start, at_us)
        record = msgspec.to_builtins(options)
        now_us = time.time_ns() // 1000
        self._node.check_served(topic)
        await self._node.store.run(create_group(topic.id, name, position, record, now_us))
        self._node.check_served(topic)
        return self._add(topic, StoredGroup(topic.id, name, position, record, now_us, [], 0))

    def _add(self, topic: Topic, stored: StoredGroup) -> GroupWork:
        options = parse_options(stored.options)
        if is_dead_letter_topic(topic.name):
            options = msgspec.structs.replace(options, max_attempts=NEVER)
        work = GroupWork(
            self._node.store, topic, stored, self._node.limits, options, self._node.dead_letters.bury
        )
        self._by_topic.setdefault(topic.id, {})[stored.name] = work
        return work

    async def delete(self, work: GroupWork) -> None:
        """Delete a group and end its members; the caller holds `work.changing`.

        Raises:
            PubsubError: it could not be deleted, and goes on.
        """
        await work.stop()
        try:
            await self._node.store.run(delete_group(work.topic.id, work.name))
        except Exception:
            work.go_on()
            raise
        work.end()
        self._remove(work)
        self._node.members.unseat(
            work, GroupNotFoundError(f"group {work.name} of {work.topic.name} was deleted")
        )

    def _remove(self, work: GroupWork) -> None:
        """It is there no more; its topic may have gone before it."""
        works = self._by_topic.get(work.topic.id, {})
        if works.get(work.name) is work:
            del works[work.name]
        if not works:
            self._by_topic.pop(work.topic.id, None)

    # What happens to topics

    def on_append(self, topic: Topic, appended: Appended) -> None:
        """A commit added messages to a topic."""
        for work in self.of(topic):
            work.on_append(appended)

    def on_committed(self, topic: Topic) -> None:
        """More of a replicated topic is committed."""
        for work in self.of(topic):
            work.pump_soon()

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
            self._node.members.unseat(work, error)

    def _forget(self, statements: Sequence[Statement]) -> None:
        def done(error: PubsubError | None) -> None:
            if error is not None:
                log.warning("rows of dead letters were left behind: %s", error)

        self._node.store.change(statements, done)

    async def on_first_offset(self, topic: Topic) -> None:
        """Retention moved the first kept offset of a topic."""
        for work in self.of(topic):
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

    def close(self) -> None:
        """Do nothing any more; what was begun is in the rows."""
        for works in self._by_topic.values():
            for work in works.values():
                work.pump()
                work.end()
