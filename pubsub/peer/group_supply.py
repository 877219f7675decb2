"""What a group has in memory to give out: the messages ahead of its cursor, and those to be given out again.

Both are bounded, and read from disk in bounded chunks; a message that is published while the group is up to date
comes straight from its commit. Everything here may be dropped at any time: it is read anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pubsub.config import Limits
from pubsub.errors import ClosedError, PubsubError
from pubsub.peer.tail import cut
from pubsub.protocol.batch import message_sizes, next_position, slice_batch
from pubsub.protocol.messages import Batch
from pubsub.storage.groups import read_offsets
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic

log = logging.getLogger("pubsub.peer")

LEAST_AHEAD = 100
"""Messages that a read ahead asks for at least."""
MOST_AHEAD = 4000
"""Messages that are kept ahead at most ..."""
AHEAD_BYTES = 2 * 1024 * 1024
"""... and their size, but for a last batch."""
AGAIN_MESSAGES = 500
"""Messages that are fetched to be given out again at once."""


class Piece:
    """Consecutive messages ahead of the cursor, of which those before the position `at` have been given out."""

    __slots__ = ("at", "batch", "offsets", "sizes")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.offsets: Sequence[int] = offsets_of(batch)
        self.sizes = message_sizes(batch)
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.offsets) - self.at


class Supply:
    """The messages of one group that can be given out without a look at the disk."""

    def __init__(self, store: Store, topic: Topic, limits: Limits, came: Callable[[], None]) -> None:
        self._store = store
        self._topic = topic
        self._limits = limits
        self._came = came
        """Called when a read has brought something, or found that there is nothing."""
        self._ahead: deque[Piece] = deque()
        self._messages = 0
        self._bytes = 0
        self._reading: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._asked_for: list[int] = []
        self.again: Batch | None = None
        """Messages that were fetched to be given out again."""
        self.missing: list[int] = []
        """Of those asked for, the ones that are in the log no more."""
        self.unread: list[int] = []
        """And those that did not fit a read."""
        self.empty_to = 0
        """There are no messages between what lies ahead, or the cursor, and this offset."""

    # Ahead of the cursor

    def head(self) -> Piece | None:
        """The next messages from the cursor on, if they are here."""
        while self._ahead and not self._ahead[0].left:
            self._ahead.popleft()
        return self._ahead[0] if self._ahead else None

    def passed(self, piece: Piece, messages: int) -> None:
        """So many of the first piece have been given out, or set aside."""
        self._messages -= messages
        self._bytes -= sum(piece.sizes[piece.at : piece.at + messages])
        piece.at += messages

    def add(self, batch: Batch, cursor: int) -> None:
        """A commit added messages: keep them if they follow on what is here, and there is room."""
        if self._reading is None and self._next(cursor) == batch.first_offset and self._has_room():
            self._add(batch)

    def _next(self, cursor: int) -> int:
        """The offset from which on a read would have to go on."""
        return max(next_position(self._ahead[-1].batch) if self.head() else cursor, self.empty_to, cursor)

    def _has_room(self) -> bool:
        return self._messages < MOST_AHEAD and self._bytes < AHEAD_BYTES

    def _add(self, batch: Batch) -> None:
        for part in cut(batch, self._limits.batch_messages, self._limits.batch_bytes):
            piece = Piece(part)
            self._ahead.append(piece)
            self._messages += piece.left
            self._bytes += sum(piece.sizes)

    def read_ahead(self, cursor: int, wanted: int) -> None:
        """Have at least `wanted` messages here soon, as far as there are so many."""
        wanted = min(max(wanted, LEAST_AHEAD), MOST_AHEAD)
        start = self._next(cursor)
        if self._reading is not None or start >= self._topic.committed or self._messages >= wanted:
            return
        if not self._has_room():
            return
        self._reading = asyncio.create_task(
            self._read(start, 2 * wanted), name=f"pubsub: read {self._topic.name} for a group"
        )

    async def _read(self, start: int, limit: int) -> None:
        stop = self._topic.committed
        try:
            batch = await self._store.read(self._topic, start, limit)
            if batch is None:
                self.empty_to = stop
            else:
                self._add(batch)
        except PubsubError as error:
            await self._wait_after(error)
        self._reading = None
        self._came()

    # Once more

    def fetch(self, offsets: list[int]) -> None:
        """Bring these messages here, as `again`; one fetch at a time."""
        assert not self.fetching
        self._asked_for = offsets
        self._fetching = asyncio.create_task(
            self._fetch(offsets), name=f"pubsub: read {self._topic.name} again for a group"
        )

    @property
    def fetching(self) -> bool:
        """Whether a fetch is under way, or what it brought has not been taken."""
        return self._fetching is not None or self.again is not None

    @property
    def asked_for(self) -> int:
        """How many messages the fetch under way is to bring."""
        return len(self._asked_for)

    async def _fetch(self, offsets: list[int]) -> None:
        found: list[int] = []
        missing: list[int] = []
        try:
            self.again, missing = await self._store.look(
                read_offsets, self._topic.id, offsets, self._limits.batch_bytes
            )
            found = list(offsets_of(self.again)) if self.again is not None else []
        except PubsubError as error:
            await self._wait_after(error)
        self._fetching = None
        self._asked_for = []
        self.missing += missing
        self.unread += set(offsets).difference(found, missing)
        self._came()

    async def _wait_after(self, error: PubsubError) -> None:
        """Do not try at once again what has just failed."""
        if not isinstance(error, ClosedError):
            log.warning("messages of %s cannot be read for a group, tried again: %s", self._topic.name, error)
        await asyncio.sleep(self._store.settings.probe_seconds)

    def clear(self) -> list[int]:
        """Drop everything, also what is being read. Returns the offsets for which a fetch was asked."""
        for task in (self._reading, self._fetching):
            if task is not None:
                task.cancel()
        self._reading = self._fetching = None
        self._ahead.clear()
        self._messages = self._bytes = 0
        dropped = [*self._asked_for, *self.missing, *self.unread]
        dropped += offsets_of(self.again) if self.again is not None else []
        self.again = None
        self._asked_for, self.missing, self.unread = [], [], []
        self.empty_to = 0
        return dropped


def offsets_of(batch: Batch) -> Sequence[int]:
    """The offset of each message of a batch."""
    if batch.offsets is not None:
        return batch.offsets
    return range(batch.first_offset, batch.first_offset + len(batch.payloads))


def portion(batch: Batch, positions: list[int], attempts: list[int]) -> Batch:
    """The messages at these positions, at least one, in order, as they are delivered to a member."""
    return msgspec.structs.replace(picked(batch, positions), attempts=attempts)


def picked(batch: Batch, positions: list[int]) -> Batch:
    """The messages at these positions, at least one, in order."""
    first, last = positions[0], positions[-1]
    if last - first + 1 == len(positions):
        return slice_batch(batch, first, last + 1)

    def pick(column: list[Any] | None) -> list[Any] | None:
        return None if column is None else [column[position] for position in positions]

    offsets, times = offsets_of(batch), batch.published_us
    return Batch(
        offsets[first],
        [offsets[position] for position in positions],
        times if isinstance(times, int) else [times[position] for position in positions],
        pick(batch.keys),
        pick(batch.headers),
        [batch.payloads[position] for position in positions],
    )


def joined(first: Batch | None, second: Batch | None) -> Batch | None:
    """Two batches of a topic, one behind the other, as one."""
    if first is None or second is None:
        return first or second
    parts = (first, second)

    def column(name: str) -> list[Any] | None:
        if getattr(first, name) is None and getattr(second, name) is None:
            return None
        return [cell for part in parts for cell in getattr(part, name) or [None] * len(part.payloads)]

    times = [
        time
        for part in parts
        for time in (
            [part.published_us] * len(part.payloads)
            if isinstance(part.published_us, int)
            else part.published_us
        )
    ]
    return Batch(
        first.first_offset,
        [*offsets_of(first), *offsets_of(second)],
        times,
        column("keys"),
        column("headers"),
        first.payloads + second.payloads,
    )
