"""Carrying out the policies of the topics that this peer owns: one task, one small step after the other.

Every `retention_seconds`, or as soon as a topic has grown beyond its limits, it looks at each topic (arithmetic in
memory), and where something may go it does steps in turn until nothing may. A step shares a group commit; after each
comes a pause of four times as long as the step took, so at most one commit in five carries one. Where publishers are
faster than that, steps grow until they keep up: what is beyond `max_bytes` or `max_messages` is what is published
during a few commits.

Who has a say in what may go, and who must know what went, is told by `floors` and `when_trimmed`: groups and durable
subscriptions are parts of their own. Once a minute or so it lets go of removed keys, of old message ids, and of
producers that were silent for long; and pages of the file that nothing needed for a while are given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pubsub.config import PeerSettings
from pubsub.core.announcement import OWNER
from pubsub.core.retention import (
    Extent,
    Removal,
    acknowledged_to,
    compaction_end,
    next_factor,
    pages_to_give_back,
    plan_removal,
)
from pubsub.errors import ReadOnlyError, StorageError
from pubsub.policy import Policy, stored_policy
from pubsub.storage.compaction import STEP_ROWS as COMPACTION_ROWS
from pubsub.storage.compaction import Compacted
from pubsub.storage.retention import STEP_BYTES, STEP_ROWS
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.peer.node import Node

log = logging.getLogger("pubsub.peer")

T = TypeVar("T")

Floor = Callable[[Topic], int | None]

PAUSE = 4.0
"""After a step others have the file to themselves for so many times as long as it took ..."""
LONGEST_PAUSE_SECONDS = 0.1
"""... or for so long: where a commit takes longer than that, the disk is what is slow."""
STEPS_IN_TURN = 16
"""Steps for one topic before the next topic has its turn."""
KEYS_SECONDS = 60.0
"""How often removed keys are looked for; or in a twentieth of the time for which they are kept, if that is less."""
IDS_SECONDS = 30.0
"""How often old message ids are looked for, of topics to which nothing is published any more."""
PRODUCERS_SECONDS = 3600.0
"""How often producers that have not published for `producer_days` are looked for."""


class Retention:
    """Owned by the node; `run` is its task."""

    def __init__(self, node: Node, settings: PeerSettings) -> None:
        self._node = node
        self._upkeep = node.store.upkeep
        self._settings = settings
        self.group_floors: list[Floor] = []
        """Each says, of the groups that it knows, below which offset all of them are done; None: there is none."""
        self.cursor_floors: list[Floor] = [lambda topic: node.store.cursors.floor(topic.id)]
        """The same for durable subscriptions."""
        self.when_trimmed: list[Callable[[Topic], Awaitable[None]]] = []
        """Called after `first_offset` of a topic has moved."""
        self._wake = asyncio.Event()
        self._policies: dict[int, tuple[dict[str, Any], Policy]] = {}
        self._oldest_us: dict[int, int | None] = {}
        """When the oldest message of a topic was published, where that is known."""
        self._factors: dict[int, int] = {}
        """How many times the usual size the next step of a topic has."""
        self._keys_at: dict[int, float] = {}
        """When removed keys of a topic are looked for next."""
        self._ids_at = 0.0
        self._producers_at = 0.0
        self._least_free = 0
        """The fewest free pages that were seen since the present window began."""
        self._window_ends_at = 0.0
        self._freed = True
        """Whether pages may have become free that were not given back."""

    def wake(self) -> None:
        """Look at the topics now: a policy has changed, say."""
        self._wake.set()

    def on_append(self, topic: Topic) -> None:
        """A topic has grown: one that is a step beyond its limits does not wait for the next look."""
        policy = self.policy(topic)
        if (policy.max_bytes is not None and topic.size_bytes > policy.max_bytes + STEP_BYTES) or (
            policy.max_messages is not None and topic.messages > policy.max_messages + STEP_ROWS
        ):
            self._wake.set()

    def policy(self, topic: Topic) -> Policy:
        """The policy of a topic, read once."""
        known = self._policies.get(topic.id)
        if known is None or known[0] is not topic.policy:
            known = self._policies[topic.id] = (topic.policy, stored_policy(topic.policy))
        return known[1]

    async def run(self) -> None:
        """Carry policies out until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            more = False
            try:
                more = await self._look_at_topics()
                await self._forget_ids(loop.time())
                await self._forget_producers(loop.time())
                await self._give_back(loop.time())
            except (ReadOnlyError, StorageError) as error:
                log.info("retention goes on when the disk does: %s", error)
                await asyncio.sleep(self._settings.retention_seconds)
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.retention_seconds):
                        await self._wake.wait()

    async def _paced(self, step: Awaitable[T], factor: int = 1) -> T:
        """Do a step, then leave the file to others for a while; for less where the step had to grow."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await step
        await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, PAUSE * (loop.time() - began)) / factor**2)
        return result

    # Topics

    async def _look_at_topics(self) -> bool:
        """Give each topic that needs it a turn; whether some may need another one."""
        due = [topic for topic in self._node.store.topics.values() if self._is_due(topic)]
        more = False
        for topic in due:
            more = await self._take_turn(topic) or more
        return more

    def _is_due(self, topic: Topic) -> bool:
        if self.policy(topic).keeps_everything and not topic.compacted_to:  # nearly all of them, often
            return False
        return self._removal(topic) is not None or self._compaction(topic) is not None

    async def _take_turn(self, topic: Topic) -> bool:
        for _ in range(STEPS_IN_TURN):
            removal = self._removal(topic)
            if removal is not None and await self._trim(topic, removal):
                continue
            compaction = self._compaction(topic)
            if compaction is None or not await compaction():
                return False
        return True

    def _removal(self, topic: Topic) -> Removal | None:
        policy = self.policy(topic)
        if topic.set_aside is not None:
            return None
        if topic.role != OWNER:  # its owner decides
            return Removal(below=topic.keep_from) if topic.keep_from > topic.first_offset else None
        extent = Extent(
            first_offset=topic.first_offset,
            committed=topic.committed,
            messages=topic.messages,
            size_bytes=topic.size_bytes,
            oldest_us=self._oldest_us.get(topic.id),
        )
        acknowledged = None
        if policy.until_acknowledged:
            acknowledged = acknowledged_to(floor(topic) for floor in self.group_floors + self.cursor_floors)
        return plan_removal(policy, extent, _now_us(), acknowledged)

    async def _trim(self, topic: Topic, removal: Removal) -> bool:
        before, behind = topic.first_offset, self._behind(topic)
        factor = self._factors.get(topic.id, 1)
        trimmed = await self._paced(self._upkeep.trim(topic, removal, factor), factor)
        if trimmed is None:
            return False
        self._oldest_us[topic.id] = trimmed.oldest_us
        self._factors[topic.id] = next_factor(factor, behind, self._behind(topic))
        if topic.first_offset != before:
            self._freed = True
            for told in self.when_trimmed:
                await told(topic)
        return trimmed.removed > 0

    def _behind(self, topic: Topic) -> float:
        """By how many steps a topic is beyond the limits that publishing may be too fast for."""
        policy = self.policy(topic)
        messages = 0 if policy.max_messages is None else (topic.messages - policy.max_messages) / STEP_ROWS
        size = 0 if policy.max_bytes is None else (topic.size_bytes - policy.max_bytes) / STEP_BYTES
        return max(0.0, messages, size)

    def _compaction(self, topic: Topic) -> Callable[[], Awaitable[bool]] | None:
        """The step of compaction that is due for a topic; it says whether another one may be."""
        if topic.role != OWNER or topic.set_aside is not None:
            return None
        if not self.policy(topic).compact:
            return partial(self._compact, topic, self._upkeep.forget_keys) if topic.compacted_to else None
        end = compaction_end(topic.committed, [floor(topic) for floor in self.group_floors])
        if max(topic.compacted_to, 0) < end:
            return partial(self._compact_to, topic, end)
        if topic.compacted_to and asyncio.get_running_loop().time() >= self._keys_at.get(topic.id, 0.0):
            return partial(self._remove_keys, topic, end)
        return None

    async def _compact(
        self, topic: Topic, step: Callable[[Topic], Awaitable[Compacted | None]], factor: int = 1
    ) -> bool:
        self._freed = True
        compacted = await self._paced(step(topic), factor)
        return compacted is not None and compacted.more

    async def _compact_to(self, topic: Topic, end: int) -> bool:
        behind, factor = (end - topic.compacted_to) / COMPACTION_ROWS, self._factors.get(topic.id, 1)
        more = await self._compact(topic, partial(self._upkeep.compact, end=end, factor=factor), factor)
        self._factors[topic.id] = next_factor(
            factor, behind, (topic.committed - topic.compacted_to) / COMPACTION_ROWS
        )
        return more

    async def _remove_keys(self, topic: Topic, end: int) -> bool:
        kept_seconds = self._settings.removed_key_seconds
        before_us = _now_us() - round(kept_seconds * 1_000_000)
        more = await self._compact(topic, partial(self._upkeep.remove_keys, before_us=before_us, end=end))
        if not more:
            pause_seconds = min(KEYS_SECONDS, kept_seconds / 20)
            self._keys_at[topic.id] = asyncio.get_running_loop().time() + pause_seconds
        return more

    # What else is kept for a while

    async def _forget_ids(self, now: float) -> None:
        if now < self._ids_at:
            return
        self._ids_at = now + IDS_SECONDS
        for topic_id, oldest_us in await self._upkeep.oldest_ids():
            topic = self._node.store.by_id.get(topic_id)
            before_us = 0 if topic is None else _now_us() - self.policy(topic).dedupe_us
            while oldest_us < before_us and await self._paced(self._upkeep.forget_ids(topic_id, before_us)):
                self._freed = True
        self._forget_topics()

    def _forget_topics(self) -> None:
        """Topics that were dropped are remembered here no more."""
        held = self._node.store.by_id
        for topic_id in [topic_id for topic_id in self._policies if topic_id not in held]:
            del self._policies[topic_id]
            self._oldest_us.pop(topic_id, None)
            self._factors.pop(topic_id, None)
            self._keys_at.pop(topic_id, None)

    async def _forget_producers(self, now: float) -> None:
        if now < self._producers_at:
            return
        self._producers_at = now + PRODUCERS_SECONDS
        before_us = _now_us() - self._node.store.settings.producer_days * 86_400 * 1_000_000
        after: tuple[int, int] | None = (0, 0)
        while after is not None:
            after = await self._paced(self._upkeep.forget_producers(after, before_us))

    # The file

    async def _give_back(self, now: float) -> None:
        """At the end of each `give_back_seconds` give back the pages that were free all the time."""
        if not self._freed:
            return
        pages = await self._upkeep.count_pages()
        self._least_free = min(pages.free, self._least_free)
        if now < self._window_ends_at:
            return
        left = pages_to_give_back(self._least_free, pages.total)
        # The next window begins here. Where pages are free now and were not before, it is of use.
        self._freed = pages_to_give_back(pages.free, pages.total) > left
        self._least_free, self._window_ends_at = pages.free - left, now + self._settings.give_back_seconds
        while left > 0:
            given = await self._paced(self._upkeep.give_back(left))
            left = left - given if given else 0


def _now_us() -> int:
    return time.time_ns() // 1000
