"""Keeping a file within the policies of its topics: each call is one bounded step, done when it is on disk.

A `Topic` learns what a step did at once when it is committed, before anything that is committed later is told.
What is due, and how fast one step follows the other, is for the caller to decide.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pubsub.core.retention import Removal
from pubsub.storage import compaction, retention
from pubsub.storage.compaction import Compacted
from pubsub.storage.retention import Pages, Trimmed
from pubsub.storage.schema import PAGE_BYTES
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.storage.store import Store

T = TypeVar("T")

STEP_LOG_BYTES = 16 * PAGE_BYTES
"""What a step adds to the write-ahead log, about."""
PAGES_A_STEP = 64
"""Pages given back in one step: each may have to be moved first."""


class Upkeep:
    """Called in the event loop only.

    Raises (all of its calls):
        ReadOnlyError: the file cannot be written to.
        StorageError: it cannot be read.
        ClosedError: the store has been closed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def trim(self, topic: Topic, removal: Removal, factor: int = 1) -> Trimmed | None:
        """Remove the oldest messages that may go, in a step. None where the topic is served no more.

        Args:
            factor: so many times the usual size of a step.
        """

        def committed(trimmed: Trimmed | None) -> None:
            if trimmed is not None:
                topic.first_offset = trimmed.first_offset
                topic.messages, topic.size_bytes = trimmed.messages, trimmed.size_bytes

        change = partial(
            retention.trim,
            topic_id=topic.id,
            removal=removal,
            rows=retention.STEP_ROWS * factor,
            size_bytes=retention.STEP_BYTES * factor,
        )
        return await self._store.step(change, STEP_LOG_BYTES, committed)

    async def compact(self, topic: Topic, end: int, factor: int = 1) -> Compacted | None:
        """Remove what the next messages below `end` supersede, in a step of `factor` times the usual size."""
        rows = compaction.STEP_ROWS * factor
        change = partial(compaction.compact, topic_id=topic.id, end=end, rows=rows)
        return await self._store.step(change, STEP_LOG_BYTES, partial(_compacted, topic))

    async def remove_keys(self, topic: Topic, before_us: int, end: int) -> Compacted | None:
        """Let go of keys that were removed before an instant, by messages below `end`."""
        change = partial(compaction.remove_keys, topic_id=topic.id, before_us=before_us, end=end)
        return await self._store.step(change, STEP_LOG_BYTES, partial(_compacted, topic))

    async def forget_keys(self, topic: Topic) -> Compacted | None:
        """Empty what compaction knew of a topic that is compacted no more."""
        change = partial(compaction.forget_keys, topic_id=topic.id)
        return await self._store.step(change, STEP_LOG_BYTES, partial(_compacted, topic))

    async def oldest_ids(self) -> list[tuple[int, int]]:
        """Topic id -> when the oldest message id that is remembered was stored, for the topics that have any."""
        return await self._store.look(retention.oldest_ids)

    async def forget_ids(self, topic_id: int, before_us: int) -> bool:
        """Forget message ids that were stored before an instant; whether there may be more."""
        change = partial(retention.forget_ids, topic_id=topic_id, before_us=before_us)
        return await self._store.step(change, STEP_LOG_BYTES) == retention.STEP_ROWS

    async def forget_producers(self, after: tuple[int, int], before_us: int) -> tuple[int, int] | None:
        """Of the next producers behind `after`, forget those that have not published since an instant.

        Returns: behind which one to go on; None: those were all.
        """
        stale, last = await self._store.look(retention.stale_producers, after, before_us, retention.STEP_ROWS)
        if stale:
            change = partial(retention.forget_producers, producers=stale, before_us=before_us)
            await self._store.step(change, STEP_LOG_BYTES)
        return last

    async def count_pages(self) -> Pages:
        """How many pages the file has, and how many of them hold nothing."""
        return await self._store.look(retention.count_pages)

    async def give_back(self, pages: int) -> int:
        """Give so many pages that hold nothing back to the file system, or a step of them; returns how many it were."""
        change = partial(retention.give_back, pages=min(pages, PAGES_A_STEP))
        return await self._store.step(change, PAGES_A_STEP * PAGE_BYTES)


def _compacted(topic: Topic, compacted: Compacted | None) -> None:
    if compacted is not None:
        topic.compacted_to = compacted.compacted_to
        topic.messages, topic.size_bytes = compacted.messages, compacted.size_bytes
