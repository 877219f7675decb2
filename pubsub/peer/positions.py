"""From what a request says to offsets of a log: where a read begins, and where it ends."""

from __future__ import annotations

import time
from bisect import bisect_left

from pubsub.errors import InvalidRequestError, OffsetOutOfRangeError
from pubsub.protocol import messages as m
from pubsub.protocol.batch import next_position, slice_batch
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic

SETTLING_SECONDS = 10.0
"""After a time has passed, messages stamped earlier may still wait for their commit, for no longer than that."""


async def find_position(
    store: Store, topic: Topic, start: int, at_us: int, *, skip_lost: bool = False
) -> int:
    """The offset that a start means.

    Args:
        skip_lost: An offset that retention has taken away means the first kept one.

    Raises:
        OffsetOutOfRangeError: it lies before the first kept offset or beyond the next one.
    """
    if start == m.LATEST:
        return topic.latest
    if start == m.EARLIEST:
        return topic.first_offset
    if start == m.AT_TIME:
        return await store.offset_at(topic, at_us)
    if 0 <= start < topic.first_offset and skip_lost:
        return topic.first_offset
    # Beyond what is committed: whoever read from the owner before this one may have come as far as the log goes.
    if not topic.first_offset <= start <= topic.next_offset:
        raise OffsetOutOfRangeError(
            f"topic {topic.name} has no offset {start}: it keeps {topic.first_offset} to "
            f"{topic.committed - 1}, and {topic.committed} is the next one",
            first_offset=topic.first_offset,
            next_offset=topic.committed,
        )
    return start


def lost(topic: Topic, position: int, first_offset: int) -> OffsetOutOfRangeError:
    """The error of a reader whose position retention has overtaken."""
    return OffsetOutOfRangeError(
        f"retention has taken offsets {position} to {first_offset - 1} of topic {topic.name} away "
        "before they were read",
        first_offset=first_offset,
        next_offset=topic.committed,
    )


class Until:
    """Where a read ends: before the offset `stop`, and before the first message published at `at_us` or later.

    A time that lies ahead becomes an offset when a message from then is seen, or when it has come.
    """

    __slots__ = ("at_us", "pending", "stop")

    def __init__(self, stop: int | None, at_us: int, pending: bool = False) -> None:
        self.stop = stop
        self.at_us = at_us
        self.pending = pending
        """Whether the time lay ahead when this was made."""

    def end_at(self, offset: int) -> None:
        """It has turned out that nothing from `offset` on belongs to it."""
        self.stop = offset if self.stop is None else min(self.stop, offset)

    def reached(self, position: int) -> bool:
        """Whether nothing from `position` on belongs to it."""
        return self.stop is not None and position >= self.stop

    def before(self, batch: m.Batch) -> m.Batch:
        """What of a batch belongs to it; the batch that comes back may be empty."""
        if self.at_us:
            times = batch.published_us
            count = len(batch.payloads)
            early = (
                bisect_left(times, self.at_us) if isinstance(times, list) else count * (times < self.at_us)
            )
            if early < count:
                self.end_at(batch.offsets[early] if batch.offsets else batch.first_offset + early)
        if self.stop is None or next_position(batch) <= self.stop:
            return batch
        if batch.offsets:
            return slice_batch(batch, 0, bisect_left(batch.offsets, self.stop))
        return slice_batch(batch, 0, max(0, self.stop - batch.first_offset))


async def find_end(store: Store, topic: Topic, until: int, until_us: int) -> Until | None:
    """What `until` and `until_us` of a request mean; None if neither is given.

    Raises:
        InvalidRequestError: one is out of its range.
    """
    if until < -1 or until_us < 0:
        raise InvalidRequestError("an end is an offset from 0 on, or a time after 1970")
    if until < 0 and not until_us:
        return None
    end = Until(until if until >= 0 else None, until_us, lies_ahead(until_us))
    if until_us and not end.pending:
        end.end_at(await past_end(store, topic, until_us))
    return end


def lies_ahead(at_us: int) -> bool:
    """Whether an instant has not come yet."""
    return at_us > time.time_ns() // 1000


async def past_end(store: Store, topic: Topic, until_us: int) -> int:
    """The offset before which everything was published before `until_us`, which has passed."""
    if until_us > time.time_ns() // 1000 - SETTLING_SECONDS * 1e6:
        await store.settled(SETTLING_SECONDS)
    return await store.offset_at(topic, until_us)
