"""The newest messages of a topic in memory, for the subscribers that are not behind.

A tail is a run of consecutive batches that ends at the end of the log. A subscriber whose position lies within
it is fed from here, any other from disk; since both are found by offset, the change from one to the other can
neither skip nor repeat a message. A batch is encoded once, when its first reader takes it whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from pubsub.protocol.batch import batch_bytes, message_sizes, slice_batch
from pubsub.protocol.codec import encode_batch
from pubsub.protocol.messages import Batch

MESSAGE_BYTES = 48
"""What a message in memory takes besides what it carries, about; so that small and empty ones are bounded too."""


class Piece:
    """A batch of the tail: offsets `first` up to, not including, `stop`."""

    __slots__ = (
        "_encoded",
        "batch",
        "encoded_marks",
        "first",
        "held_bytes",
        "marks",
        "size_bytes",
        "stop",
    )

    def __init__(self, batch: Batch, marks: list[tuple[int, str]] | None = None) -> None:
        self.batch = batch
        self.marks = marks
        """The marks of the batches that begin in it, for followers; None where they are not known."""
        self.encoded_marks: bytes | None = None
        self.first = batch.first_offset
        self.stop = batch.first_offset + len(batch.payloads)
        self.size_bytes = batch_bytes(batch)
        """As windows count it."""
        self.held_bytes = self.size_bytes + MESSAGE_BYTES * len(batch.payloads)
        """As the memory that it takes, about; its encoded form, once made, takes up to as much again."""
        self._encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The batch as it goes on the wire, behind a head of each reader's own."""
        if self._encoded is None:
            self._encoded = encode_batch(self.batch)
        return self._encoded


class TailBudget:
    """Bytes that all tails of a peer together may hold."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class Tail:
    """The tail of one topic. Its pieces are consecutive; what they hold is counted in the budget."""

    def __init__(self, limit_bytes: int, budget: TailBudget) -> None:
        self._limit_bytes = limit_bytes
        self._budget = budget
        self._pieces: deque[Piece] = deque()
        self._held_bytes = 0

    def add(
        self,
        batch: Batch,
        batch_messages: int,
        batch_limit_bytes: int,
        marks: list[tuple[int, str]] | None = None,
    ) -> None:
        """Append what a commit stored, cut into pieces that can each be one frame.

        Nothing is forgotten for it yet: first those who are up to date take it, then comes `trim`.
        """
        if self._pieces and self._pieces[-1].stop != batch.first_offset:
            self.clear()
        for part in cut(batch, batch_messages, batch_limit_bytes):
            start = part.first_offset - batch.first_offset
            piece = Piece(part, _marks_of(marks, start, start + len(part.payloads)))
            self._pieces.append(piece)
            self._held_bytes += piece.held_bytes
            self._budget.used_bytes += piece.held_bytes

    def trim(self) -> None:
        """Forget the oldest until the tail and all tails together are within their bounds."""
        while self._pieces and (
            self._held_bytes > self._limit_bytes or self._budget.used_bytes > self._budget.limit_bytes
        ):
            self._forget_oldest()

    def find(self, offset: int) -> Piece | None:
        """The piece with the message at `offset`, or None when only the disk has it."""
        pieces = self._pieces
        if not pieces or not pieces[0].first <= offset < pieces[-1].stop:
            return None
        for piece in reversed(pieces):  # readers are nearly always at the end
            if piece.first <= offset:
                return piece
        return None

    def forget_before(self, offset: int) -> None:
        """Every reader has passed `offset`: let go of what lies wholly before it."""
        while self._pieces and self._pieces[0].stop <= offset:
            self._forget_oldest()

    def clear(self) -> None:
        """Let go of everything."""
        while self._pieces:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        held_bytes = self._pieces.popleft().held_bytes
        self._held_bytes -= held_bytes
        self._budget.used_bytes -= held_bytes


def _marks_of(marks: list[tuple[int, str]] | None, start: int, stop: int) -> list[tuple[int, str]] | None:
    """The marks of the positions from `start` on, below `stop`, as those of a batch of its own."""
    if marks is None or (start == 0 and (not marks or marks[-1][0] < stop)):
        return marks
    return [(position - start, mark) for position, mark in marks if start <= position < stop]


def cut(batch: Batch, most_messages: int, most_bytes: int) -> Iterator[Batch]:
    """Cut a batch into ones of at most `most_messages`, and at most twice `most_bytes` unless it is one message.

    Messages of about the same size, the usual case, are cut by their average without a look at each.
    """
    count = len(batch.payloads)
    size_bytes = batch_bytes(batch)
    if size_bytes > most_bytes:
        most_messages = max(1, min(most_messages, count * most_bytes // size_bytes))
    for start in range(0, count, most_messages):
        part = slice_batch(batch, start, start + most_messages)
        if size_bytes > most_bytes and batch_bytes(part) > 2 * most_bytes:
            yield from _cut_exactly(part, most_bytes)
        else:
            yield part


def _cut_exactly(batch: Batch, most_bytes: int) -> Iterator[Batch]:
    start, room = 0, most_bytes
    for position, size_bytes in enumerate(message_sizes(batch)):
        if size_bytes > room and position > start:
            yield slice_batch(batch, start, position)
            start, room = position, most_bytes
        room -= size_bytes
    yield slice_batch(batch, start, len(batch.payloads))
