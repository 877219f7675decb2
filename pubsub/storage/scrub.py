"""Whether a log is as it was stored: checksums of its batches, and digests of ranges by which copies are compared.

Reads only, in bounded chunks. Two questions, answered in one go:

- Does each batch that is whole here fit its checksum? Of a batch of which retention, compaction or the edge of what is
  read has taken rows nobody can tell.
- What is the digest of each range of offsets (`digests`)?

A page that SQLite cannot read, or a cell that is not what it should be, is damage like a checksum that does not fit.

That all is well is soon said of a chunk that SQLite packs (`chunks`). Where that fails, for whatever reason, it is read
row by row, which says what is wrong and where, if anything is. What a packed chunk does not show: two times between the
first and the last of it that are wrong by as much, one too early, one too late.
"""

from __future__ import annotations

import sqlite3
from typing import cast

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from pubsub.protocol.batch import batch_bytes, next_position
from pubsub.storage.chunks import MOST, read_packed
from pubsub.storage.copying import first_unfit, is_torn, without_torn
from pubsub.storage.digests import Digests, Range
from pubsub.storage.marks import Mark, decode_mark

Row = tuple[int, int, str | None, str | None, bytes | None, str | None]
"""Offset, time, key, headers, payload, mark."""

HEAD_BYTES = 24
"""What a message counts for besides what it carries."""

_READ = (
    "SELECT offset, published_at, key, headers, payload, batch FROM messages "
    "WHERE topic_id = ? AND offset >= ? AND offset < ? ORDER BY offset"
)
_TYPES = (int, int, str | None, str | None, bytes | None, str | None)
_SHAPE = (
    "SELECT count(*), sum(offset - ?2), min(published_at), max(published_at), sum("
    "typeof(offset) <> 'integer' OR typeof(published_at) <> 'integer' OR typeof(key) NOT IN ('text', 'null') "
    "OR typeof(headers) NOT IN ('text', 'null') OR typeof(payload) NOT IN ('blob', 'null') "
    "OR typeof(batch) NOT IN ('text', 'null')) "
    "FROM messages WHERE topic_id = ?1 AND offset >= ?2 AND offset < ?3"
)
"""What a packed chunk takes for granted, or adds up: its offsets, the bounds of its times, the types of its cells."""


class Scrubbed(msgspec.Struct, frozen=True):
    """What one chunk of a log showed."""

    stop: int
    """Up to where it was read; the next chunk begins there."""
    size_bytes: int
    ranges: list[Range]
    """Of what was read, in order, cut where the caller said."""
    damaged_at: int | None = None
    """The first offset from which on the log is not to be believed; nothing was read behind its batch."""
    why: str = ""


class _Damage(Exception):
    """Something is not as it was stored."""


def scrub(
    connection: Connection,
    topic_id: int,
    start: int,
    stop: int,
    step: int,
    max_bytes: int,
    begun: Range | None = None,
) -> Scrubbed:
    """Read a log from offset `start` on, below `stop`, and check it.

    Args:
        start: Where a batch begins, or the one there is not looked at.
        step: Ranges end at multiples of it.
        max_bytes: Once about so much was read, no further batch is begun.
        begun: The last range of the chunk before, which goes on here.
    """
    digests = Digests(start, stop, step, begun)
    bounds = (topic_id, start, stop, max_bytes)
    return _scrub_packed(connection, *bounds, digests) or _scrub_rows(connection, *bounds, digests)


def _scrub_packed(
    connection: Connection, topic_id: int, start: int, stop: int, max_bytes: int, digests: Digests
) -> Scrubbed | None:
    """What a chunk shows that can be packed and in which all is well; otherwise None, and the digests are as before."""
    try:
        found = read_packed(connection, topic_id, start, stop, MOST, max_bytes)
        if found is None:
            return None
        batch, marks = found
        if next_position(batch) < stop:
            batch, marks = without_torn(batch, marks)
            if is_torn(batch, marks):
                return None
        end, messages = next_position(batch), len(batch.payloads)
        times = (
            batch.published_us if isinstance(batch.published_us, list) else [batch.published_us] * messages
        )
        shape = (messages, messages * (messages - 1) // 2, times[0], times[-1], 0)
        if tuple(connection.exec_driver_sql(_SHAPE, (topic_id, batch.first_offset, end)).one()) != shape:
            return None
        if first_unfit(batch, marks) is not None:
            return None
    except (DBAPIError, msgspec.MsgspecError):
        return None
    nothing = [None] * messages
    columns = (times, batch.keys or nothing, batch.headers or nothing, batch.payloads)
    digests.add(list(zip(range(batch.first_offset, end), *columns, strict=True)))
    return Scrubbed(end, batch_bytes(batch) + HEAD_BYTES * messages, digests.up_to(end))


def _scrub_rows(
    connection: Connection, topic_id: int, start: int, stop: int, max_bytes: int, digests: Digests
) -> Scrubbed:
    """What any chunk shows."""
    reading = _Reading(start, digests)
    rows = cast(sqlite3.Cursor, connection.connection.cursor())
    try:
        rows.execute(_READ, (topic_id, start, stop))
        for row in rows:
            if reading.size_bytes >= max_bytes and reading.may_stop(row):
                reading.end_batch()
                return reading.so_far()
            reading.add(row)
        reading.end_batch()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return reading.damaged(f"it cannot be read: {error}")
    except _Damage as error:
        return reading.damaged(str(error))
    finally:
        rows.close()
    return reading.result(stop)


def is_damage(error: BaseException | None) -> bool:
    """Whether an error of SQLite says that the file is damaged."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # the driver's own: a text that is none
        return isinstance(error, sqlite3.OperationalError) and "decode" in str(error)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class _Reading:
    """A chunk that is read row by row."""

    def __init__(self, start: int, digests: Digests) -> None:
        self.size_bytes = 0
        self._start = start
        self._digests = digests
        self._mark: Mark | None = None
        self._batch: list[Row] = []
        self._batch_start = start
        self._offset = start - 1
        """Of the row that was read last."""

    def may_stop(self, row: Row) -> bool:
        """Whether no batch is cut in two before this row."""
        return row[5] is not None or self._mark is None or len(self._batch) >= self._mark.messages

    def add(self, row: Row) -> None:
        if not all(map(isinstance, row, _TYPES)):
            raise _Damage(f"the message at offset {row[0]} has a cell of another type")
        offset, _, key, headers, payload, mark = row
        if offset <= self._offset:
            raise _Damage(f"offset {offset} comes after offset {self._offset}")
        self._offset = offset
        if mark is not None:
            self.end_batch()
            self._batch_start = offset
            try:
                self._mark = decode_mark(mark)
            except msgspec.MsgspecError as error:
                raise _Damage(f"the mark of the batch at offset {offset} cannot be read") from error
        if self._mark is not None:
            self._batch.append(row)
        self._digests.add([row[:5]])
        self.size_bytes += len(payload or b"") + len(headers or "") + len(key or "") + HEAD_BYTES

    def end_batch(self) -> None:
        """Compare what was read of a batch with its mark, if it is whole."""
        mark, rows = self._mark, self._batch
        self._mark, self._batch = None, []
        if mark is None or len(rows) != mark.messages:
            return
        _, times, keys, headers, payloads, _ = map(list, zip(*rows, strict=True))
        if not mark.fits(times, keys, headers, payloads):
            raise _Damage(f"the batch at offset {rows[0][0]} does not fit its checksum")

    def so_far(self) -> Scrubbed:
        """All is well up to the row that was read last."""
        return self.result(self._offset + 1)

    def result(self, stop: int) -> Scrubbed:
        """All is well up to `stop`."""
        return Scrubbed(stop, self.size_bytes, self._digests.up_to(stop))

    def damaged(self, why: str) -> Scrubbed:
        """The batch that was read last, or what follows it, is damaged."""
        at = max(self._start, self._batch_start)
        ranges = self._digests.up_to_damage(at, self._start)
        return Scrubbed(ranges[-1].stop, self.size_bytes, ranges, at, why)
