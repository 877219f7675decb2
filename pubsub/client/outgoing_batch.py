"""A batch on its way to the owner of a topic, and who waits for it.

It knows what is in it and what is known of its fate; when it is sent, and again, is decided in the lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from pubsub.client.outgoing import UNCONDITIONAL, Columns, Conditions
from pubsub.core.sequence import runs_of
from pubsub.errors import PubsubError, SequenceError, WrongOffsetError
from pubsub.model import Offset, Offsets
from pubsub.protocol import messages as m
from pubsub.protocol.batch import column_bytes

MESSAGE_BYTES = 16
"""What a message counts for besides what it carries, so that empty messages are bounded too."""

Waiter = asyncio.Future[int]
"""Gets the offset of a message; or its schedule id, if it is held for later."""
BatchWaiter = asyncio.Future[Sequence[int]]
"""Gets those of a batch: a range, mostly."""


class OutgoingBatch:
    """Messages on their way. See `Numbering` for their numbers."""

    __slots__ = (
        "bare",
        "conditions",
        "deadline",
        "doubted",
        "fate_unknown",
        "headers",
        "keys",
        "message_ids",
        "payloads",
        "producer",
        "rejection",
        "sequence",
        "size_bytes",
        "waiters",
        "whole",
    )

    def __init__(self, deadline: float, conditions: Conditions = UNCONDITIONAL) -> None:
        self.deadline = deadline
        self.conditions = conditions
        self.payloads: list[bytes | None] = []
        self.keys: list[str | None] | None = None
        self.headers: list[str | None] | None = None
        self.message_ids: list[str | None] | None = None
        self.bare = True
        """Payloads alone, so far: the usual case."""
        self.size_bytes = 0
        self.waiters: list[Waiter] = []
        """One for each message, for calls of `publish`."""
        self.whole: BatchWaiter | None = None
        """Or one for the batch, for `publish_many` and what is sent on conditions."""
        self.producer = 0
        self.sequence = -1
        """The number under which it was sent and must be sent again, of `producer`; -1: it takes the next one."""
        self.fate_unknown = False
        """It may have been stored, by whichever of its sendings."""
        self.doubted = False
        """That is so of an earlier sending than the last."""
        self.rejection: PubsubError | None = None
        """What came of the last sending, if it was refused."""

    def add_cells(self, key: str | None, headers: str | None, message_id: str | None) -> None:
        """Add what comes with the next payload."""
        count = len(self.payloads)
        self.bare = False
        if key is not None and self.keys is None:
            self.keys = [None] * count
        if headers is not None and self.headers is None:
            self.headers = [None] * count
        if message_id is not None and self.message_ids is None:
            self.message_ids = [None] * count
        if self.keys is not None:
            self.keys.append(key)
        if self.headers is not None:
            self.headers.append(headers)
        if self.message_ids is not None:
            self.message_ids.append(message_id)

    def fill(self, columns: Columns) -> None:
        """Take a whole batch."""
        self.payloads, self.keys, self.headers, size_bytes, self.message_ids = columns
        self.size_bytes = size_bytes + column_bytes(self.message_ids) + MESSAGE_BYTES * len(self.payloads)

    def succeed(self, published: m.Published) -> None:
        first = published.first_offset
        offsets: Sequence[int] = published.offsets or range(first, first + len(self.payloads))
        if published.in_sync is not None:
            offsets = with_holders(offsets, published.in_sync, whole=self.whole is not None)
        if self.whole is not None:
            if not self.whole.done():
                self.whole.set_result(offsets)
            return
        for offset, waiter in zip(offsets, self.waiters, strict=False):
            if not waiter.done():
                waiter.set_result(offset)

    @property
    def end(self) -> int:
        """The number behind those of its messages."""
        return self.sequence + len(self.payloads)

    def is_sent(self) -> None:
        """Once more, or for the first time: nobody knows yet what becomes of it."""
        self.rejection = None
        self.fate_unknown = True

    def is_refused(self, error: PubsubError) -> None:
        """Its last sending was answered with an error."""
        if _fate_unknown_after(error):
            self.doubted = True
            return
        self.rejection = error
        if isinstance(error, SequenceError | WrongOffsetError):  # the owner has looked whether it is there
            self.doubted = False
        self.fate_unknown = self.doubted

    def is_not_stored(self) -> None:
        """By none of its sendings: it may be numbered anew."""
        self.fate_unknown = self.doubted = False
        self.sequence = -1

    def fail(self, error: PubsubError) -> None:
        waiters: Iterable[Waiter | BatchWaiter] = self.waiters if self.whole is None else (self.whole,)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)


def _fate_unknown_after(error: PubsubError) -> bool:
    """Whether an error reply leaves open if the batch was stored: a relay that lost the owner, say.

    An owner that has stored it and does not own the topic any more, or lacks copies to commit it, says so.
    """
    return error.code in ("connection_lost", "timeout", "internal") or error.data.get("fate") == "unknown"


def with_holders(offsets: Sequence[int], in_sync: Sequence[str], *, whole: bool) -> Sequence[int]:
    """Offsets in a replicated topic, that also say who has the messages."""
    if not whole:
        return [Offset(offset, in_sync) for offset in offsets]
    runs = [offsets] if isinstance(offsets, range) else [range(f, f + n) for f, n in runs_of(offsets)]
    return Offsets(runs, in_sync)
