"""Whether a log is as it was stored: checksums of its batches, and digests of ranges by which copies are compared.

Reads only, in bounded chunks. Two questions, answered in one go:

- Does each batch that is whole here fit its checksum? Of a batch of which retention, compaction or the edge of what is
  read has taken rows nobody can tell.
- What is the digest of each range of offsets? The CRC-32 (zlib) of the msgpack arrays [offset, time, key, headers,
  payload] of its rows, one behind the other: the same on all copies, however they were stored.

A page that SQLite cannot read, or a cell that is not what it should be, is damage like a checksum that does not fit.
"""

from __future__ import annotations

import sqlite3
from typing import cast
from zlib import crc32

import msgspec
from sqlalchemy import Connection

from pubsub.storage.marks import Mark, decode_mark

Row = tuple[int, int, str | None, str | None, bytes | None, str | None]
"""Offset, time, key, headers, payload, mark."""

_READ = (
    "SELECT offset, published_at, key, headers, payload, batch FROM messages "
    "WHERE topic_id = ? AND offset >= ? AND offset < ? ORDER BY offset"
)
_TYPES = (int, int, str | None, str | None, bytes | None, str | None)
_encode = msgspec.msgpack.Encoder().encode


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Offsets `start` up to, not including, `stop` of a copy."""

    start: int
    stop: int
    messages: int
    digest: int
    """-1: a part of it cannot be read."""


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
        max_bytes: Once so much was read, no further batch is begun.
        begun: The last range of the chunk before, which goes on here.
    """
    reading = _Reading(start, stop, step, begun)
    rows = cast(sqlite3.Cursor, connection.connection.cursor())
    try:
        rows.execute(_READ, (topic_id, start, stop))
        for row in rows:
            if reading.size_bytes >= max_bytes and reading.may_stop(row):
                return reading.result(row[0])
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
    """A chunk that is being read."""

    def __init__(self, start: int, stop: int, step: int, begun: Range | None) -> None:
        self.size_bytes = 0
        self._start, self._stop, self._step = start, stop, step
        self._ranges: list[Range] = []
        begun = begun or Range(start, start, 0, 0)
        self._messages, self._digest = begun.messages, begun.digest
        self._range_start, self._range_stop = begun.start, self._end_of(begun.start)
        self._mark: Mark | None = None
        self._batch: list[Row] = []
        self._batch_start = start

    def _end_of(self, offset: int) -> int:
        return min(self._stop, offset - offset % self._step + self._step)

    def may_stop(self, row: Row) -> bool:
        """Whether no batch is cut in two before this row."""
        return row[5] is not None or self._mark is None or len(self._batch) >= self._mark.messages

    def add(self, row: Row) -> None:
        if not all(map(isinstance, row, _TYPES)):
            raise _Damage(f"the message at offset {row[0]} has a cell of another type")
        offset, _, key, headers, payload, mark = row
        if mark is not None:
            self.end_batch()
            self._batch_start = offset
            try:
                self._mark = decode_mark(mark)
            except msgspec.MsgspecError as error:
                raise _Damage(f"the mark of the batch at offset {offset} cannot be read") from error
        if self._mark is not None:
            self._batch.append(row)
        while offset >= self._range_stop:
            self._end_range(self._range_stop)
        self._digest = crc32(_encode(row[:5]), self._digest)
        self._messages += 1
        self.size_bytes += len(payload or b"") + len(headers or "") + len(key or "") + 24

    def end_batch(self) -> None:
        """Compare what was read of a batch with its mark, if it is whole."""
        mark, rows = self._mark, self._batch
        self._mark, self._batch = None, []
        if mark is None or len(rows) != mark.messages:
            return
        _, times, keys, headers, payloads, _ = map(list, zip(*rows, strict=True))
        if not mark.fits(times, keys, headers, payloads):
            raise _Damage(f"the batch at offset {rows[0][0]} does not fit its checksum")

    def _end_range(self, stop: int) -> None:
        self._ranges.append(Range(self._range_start, stop, self._messages, self._digest))
        self._range_start, self._range_stop = stop, self._end_of(stop)
        self._digest = self._messages = 0

    def result(self, stop: int) -> Scrubbed:
        """All is well up to `stop`."""
        while stop > self._range_stop:
            self._end_range(self._range_stop)
        if stop > self._range_start:
            self._end_range(stop)
        return Scrubbed(stop, self.size_bytes, self._ranges)

    def damaged(self, why: str) -> Scrubbed:
        """The batch that was read last, or what follows it, is damaged."""
        at = max(self._start, self._batch_start)
        whole = [part for part in self._ranges if part.stop <= at]
        begin = whole[-1].stop if whole else self._start
        stop = max(self._end_of(begin), begin + 1)
        whole.append(Range(begin, stop, -1, -1))
        return Scrubbed(stop, self.size_bytes, whole, at, why)
