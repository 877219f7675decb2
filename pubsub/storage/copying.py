"""A copy's side of the log: storing what another peer's log holds, reading a log for one that follows, cutting a copy.

What is followed keeps the owner's offsets, times and marks, so that a copy is a file like the owner's: what is known
of producers travels with the marks. Rules:

- The epoch is checked in the transaction that stores, like at the owner: a copy takes nothing of an owner that is not
  its owner any more, and nothing that does not begin where it ends.
- What is cut off is kept, in `orphaned_messages`, in the same transaction.
"""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import Connection

from pubsub.core.sequence import ProducerState, StoredBatch, replay
from pubsub.errors import DamagedFileError, NotOwnerError, PubsubError
from pubsub.protocol.batch import batch_bytes, next_position, slice_batch
from pubsub.protocol.codec import encode_copy
from pubsub.protocol.messages import Batch
from pubsub.storage import beside
from pubsub.storage.chunks import read_chunk
from pubsub.storage.epochs import add_epochs
from pubsub.storage.marks import Marks, decode_mark, slice_marks
from pubsub.storage.producers import Producers
from pubsub.storage.rows import SIZE, blocks, plan_inserts, stored_bytes
from pubsub.storage.work import Committed, Received

SHARING_A_TIME = 8
"""Where so many messages have one time, in the mean, those of each are stored by a statement of their own."""

_EXTEND = (
    "UPDATE topics SET next_offset = ?2, committed = max(committed, min(?3, ?2)), messages = messages + ?4, "
    "bytes = bytes + ?5 "
    "WHERE id = ?6 AND epoch = ?7 AND next_offset = ?1 AND role <> 'owner' AND promised <= ?7 "
    "AND set_aside IS NULL"
)


class Copier:
    """Stores what copies have received, for the writer. What it learns of producers goes into `producers`."""

    def __init__(self, producers: Producers) -> None:
        self._producers = producers
        self._read: set[int] = set()
        """Topics whose marks have been read since `forget`."""

    def forget(self) -> None:
        """Read everything from the file again."""
        self._read.clear()

    def write(self, cursor: sqlite3.Cursor, works: list[Received], outcome: Committed) -> None:
        """Store what fits its copy, in the transaction that is open; the answers go into `outcome`."""
        for work in works:
            error: PubsubError | None = None
            cursor.execute("SAVEPOINT received")
            try:
                if not self._write(cursor, work):
                    error = _not_the_copy()
            except sqlite3.IntegrityError:  # where the log ends, there is nothing: the tree is out of order
                cursor.execute("ROLLBACK TO received")
                error = DamagedFileError(
                    f"behind the end of its log, at offset {work.start}, there are rows that should not be there; "
                    "start the peer once with --set-damaged-aside: copies of other peers fill its topics"
                )
            cursor.execute("RELEASE received")
            outcome.received.append((work, error))

    def _write(self, cursor: sqlite3.Cursor, work: Received) -> bool:
        messages = sum(len(batch.payloads) for batch, _ in work.parts)
        size_bytes = sum(stored_bytes(b.keys, b.headers, b.payloads) for b, _ in work.parts)
        if work.topic_id not in self._read:
            self._producers.read(cursor, work.topic_id)
            self._read.add(work.topic_id)
        bounds = (work.start, work.stop, work.committed)
        changed = cursor.execute(_EXTEND, (*bounds, messages, size_bytes, work.topic_id, work.epoch))
        if changed.rowcount != 1:
            return False
        for batch, marks in work.parts:
            for statement, values in plan_copies(work.topic_id, batch, marks):
                cursor.execute(statement, values)
        for batch, marks in work.parts:
            self._learn(cursor, work.topic_id, batch, marks)
        for reset, rows in work.beside:
            beside.store(cursor, work.topic_id, rows, reset=reset)
        if work.epochs:
            add_epochs(cursor, work.topic_id, work.epochs)
        work.messages, work.stored_bytes = messages, size_bytes
        return True

    def _learn(self, cursor: sqlite3.Cursor, topic_id: int, batch: Batch, marks: Marks) -> None:
        states: dict[int, ProducerState] = {}
        for position, text in marks:
            mark = decode_mark(text)
            if mark.producer:
                state = states.get(mark.producer) or self._producers.state(cursor, topic_id, mark.producer)
                offset = batch.offsets[position] if batch.offsets else batch.first_offset + position
                states[mark.producer] = replay(state, [StoredBatch(mark.sequence, mark.messages, offset)])
        if states:
            self._producers.learn(cursor, topic_id, states, set())


def _not_the_copy() -> NotOwnerError:
    return NotOwnerError("the copy belongs to another owner or ends elsewhere by now; nothing was stored")


# Statements


@cache
def _insert_cells(rows: int) -> str:
    """Insert whole rows. Parameters: topic id, then offset, time, key, headers, payload and mark of each row."""
    values = ",".join(
        f"(?1,{','.join(f'?{number}' for number in range(6 * row + 2, 6 * row + 8))})" for row in range(rows)
    )
    return f"INSERT INTO messages VALUES {values}"


def plan_copies(topic_id: int, batch: Batch, marks: Marks) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The statements, with their parameters, that store a batch as it stands at the owner."""
    messages, times = len(batch.payloads), batch.published_us
    mark_column: list[str | None] = [None] * (marks[-1][0] + 1 if marks else 0)
    for position, mark in marks:
        mark_column[position] = mark
    if batch.offsets is not None:
        yield from _plan_cells(topic_id, batch, mark_column)
    elif isinstance(times, int):
        yield from plan_inserts(
            topic_id, batch.first_offset, times, batch.keys, batch.headers, batch.payloads, mark_column
        )
    elif len(set(times)) * SHARING_A_TIME > messages or times != sorted(times):
        yield from _plan_cells(topic_id, batch, mark_column)
    else:
        start = 0
        for time_us in sorted(set(times)):
            stop = bisect_right(times, time_us, start)
            part = slice_batch(batch, start, stop)
            columns = (part.keys, part.headers, part.payloads, mark_column[start:stop])
            yield from plan_inserts(topic_id, part.first_offset, time_us, *columns)
            start = stop


def _plan_cells(
    topic_id: int, batch: Batch, mark_column: list[str | None]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Any rows: with all that each has. Takes SQLite's driver more than twice as long."""
    messages, times = len(batch.payloads), batch.published_us
    nothing = [None] * messages
    columns = (
        batch.offsets or range(batch.first_offset, batch.first_offset + messages),
        [times] * messages if isinstance(times, int) else times,
        batch.keys or nothing,
        batch.headers or nothing,
        batch.payloads,
        mark_column + [None] * (messages - len(mark_column)),
    )
    for start, length in blocks(messages):
        part = [column[start : start + length] for column in columns]
        yield _insert_cells(length), (topic_id, *chain.from_iterable(zip(*part, strict=True)))


# Reading for a copy


def whole_batches(batch: Batch, marks: Marks) -> Iterator[tuple[str, Batch]]:
    """Each batch of which all messages are in these columns, with its mark."""
    if not marks:
        return
    messages = len(batch.payloads)
    ends = [position for position, _ in marks[1:]] + [messages]
    for (position, text), end in zip(marks, ends, strict=True):
        if decode_mark(text).messages == end - position:
            yield text, slice_batch(batch, position, end)


def is_torn(batch: Batch, marks: Marks) -> bool:
    """Whether the last batch of these columns goes on behind them."""
    if not marks:
        return False
    position, text = marks[-1]
    return decode_mark(text).messages > len(batch.payloads) - position


def without_torn(batch: Batch, marks: Marks) -> tuple[Batch, Marks]:
    """The same without a last batch that goes on behind it, if it is not the only one: so that each comes whole."""
    if is_torn(batch, marks) and (position := marks[-1][0]) > 0:
        return slice_batch(batch, 0, position), slice_marks(marks, 0, position)
    return batch, marks


def first_unfit(batch: Batch, marks: Marks) -> Batch | None:
    """The first whole batch of these columns that does not fit its mark."""
    for text, part in whole_batches(batch, marks):
        times = part.published_us if isinstance(part.published_us, list) else [part.published_us]
        if not decode_mark(text).fits(times, part.keys, part.headers, part.payloads):
            return part
    return None


def read_encoded(
    connection: Connection, topic: str, topic_id: int, start: int, stop: int, limit: int, max_bytes: int
) -> tuple[bytes, bytes, int, int, int] | None:
    """The next part of a log, checked and encoded, where it ends, its messages and their size; None: nothing is kept.

    Raises:
        DamagedFileError: a batch does not fit its mark.
    """
    found = read_chunk(connection, topic_id, start, stop, limit, max_bytes)
    if found is None:
        return None
    batch, marks = without_torn(*found)
    check_batches(topic, batch, marks)
    return (
        encode_copy(batch),
        encode_copy(marks),
        next_position(batch),
        len(batch.payloads),
        batch_bytes(batch),
    )


def check_batches(topic: str, batch: Batch, marks: Marks) -> None:
    """Compare the checksums of all batches that are whole here.

    Raises:
        DamagedFileError: one does not fit its mark.
    """
    unfit = first_unfit(batch, marks)
    if unfit is not None:
        raise DamagedFileError(
            f"a batch of topic {topic} at offset {unfit.first_offset} does not fit its checksum"
        )


# Cutting

_ORPHANS = (
    "INSERT INTO orphaned_messages "
    "(topic_id, topic, offset, epoch, published_at, key, headers, payload, cut_at, owner, owner_epoch) "
    "SELECT topic_id, ?3, offset, coalesce((SELECT max(epoch) FROM epochs "
    "WHERE epochs.topic_id = messages.topic_id AND start_offset <= messages.offset), ?4), "
    "published_at, key, headers, payload, ?5, ?6, ?7 "
    "FROM messages WHERE topic_id = ?1 AND offset >= ?2 ORDER BY offset"
)


def cut(
    cursor: sqlite3.Cursor, topic_id: int, offset: int, epoch: int, owner: str, *, keep: bool = True
) -> int:
    """Take everything from `offset` on off a copy; returns how many messages that were.

    Args:
        epoch, owner: whose log has nothing, or something else, there.
        keep: as orphans.

    Raises:
        NotOwnerError: the copy has moved on to another epoch, or is the owner's by now.
    """
    row = cursor.execute(
        "SELECT name, next_offset FROM topics "
        "WHERE id = ? AND epoch = ? AND role <> 'owner' AND set_aside IS NULL",
        (topic_id, epoch),
    ).fetchone()
    if row is None:
        raise _not_the_copy()
    name, next_offset = row
    now_us = time.time_ns() // 1000
    if keep:
        cursor.execute(_ORPHANS, (topic_id, offset, name, 0, now_us, owner, epoch))
    removed, size_bytes = cursor.execute(
        f"SELECT count(*), coalesce(sum({SIZE}), 0) FROM messages WHERE topic_id = ? AND offset >= ?",
        (topic_id, offset),
    ).fetchone()
    cursor.execute("DELETE FROM messages WHERE topic_id = ? AND offset >= ?", (topic_id, offset))
    cursor.execute("DELETE FROM epochs WHERE topic_id = ? AND start_offset > ?", (topic_id, offset))
    cursor.execute("DELETE FROM message_ids WHERE topic_id = ? AND offset >= ?", (topic_id, offset))
    cursor.execute(
        "UPDATE topics SET next_offset = ?1, committed = min(committed, ?1), messages = messages - ?2, "
        "bytes = bytes - ?3, producers_to = min(producers_to, ?1), first_offset = min(first_offset, ?1) "
        "WHERE id = ?4",
        (min(offset, next_offset), removed, size_bytes, topic_id),
    )
    _cut_producers(cursor, topic_id, offset)
    return int(removed)


def _cut_producers(cursor: sqlite3.Cursor, topic_id: int, offset: int) -> None:
    """Forget the batches of producers that were cut off: sent again, they are to be stored again."""
    lost: list[int] = []
    for producer, recent in cursor.execute(
        "SELECT producer, recent FROM producers WHERE topic_id = ?", (topic_id,)
    ).fetchall():
        batches = msgspec.convert(msgspec.json.decode(recent), list[StoredBatch])
        kept = [batch for batch in batches if batch.first_offset < offset]
        if len(kept) == len(batches):
            continue
        if not kept:
            lost.append(producer)
            continue
        after = kept[-1].sequence + kept[-1].messages
        cursor.execute(
            "UPDATE producers SET next_sequence = ?, recent = ? WHERE topic_id = ? AND producer = ?",
            (after, msgspec.json.encode(kept).decode(), topic_id, producer),
        )
    if lost:  # what is left of them stands in the log alone: all of it is to be read again
        cursor.executemany(
            "DELETE FROM producers WHERE topic_id = ? AND producer = ?", [(topic_id, p) for p in lost]
        )
        cursor.execute("UPDATE topics SET producers_to = first_offset WHERE id = ?", (topic_id,))


def begin_at(cursor: sqlite3.Cursor, topic_id: int, offset: int, epoch: int) -> None:
    """Have an empty copy, or one that ends before the owner's first kept offset, begin at that offset."""
    cursor.execute("DELETE FROM messages WHERE topic_id = ?", (topic_id,))
    changed = cursor.execute(
        "UPDATE topics SET first_offset = ?1, next_offset = ?1, committed = ?1, messages = 0, bytes = 0, "
        "producers_to = ?1 WHERE id = ?2 AND epoch = ?3 AND role <> 'owner' AND set_aside IS NULL "
        "AND next_offset <= ?1",
        (offset, topic_id, epoch),
    )
    if changed.rowcount != 1:
        raise _not_the_copy()
