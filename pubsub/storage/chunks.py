"""Reading a log in bounded chunks, with the marks of the batches that begin in them.

The driver gives Python's global lock up and takes it again for each row; where other threads want it too, that takes
several times as long as the reading. So SQLite itself puts the cells of a whole chunk together, each as MessagePack has
it, in one step and without the lock (docs/decisions/0010-packed-chunks.md). That is for the usual case: no holes, and
no message much larger than most of its topic. Everything else is read row by row.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from contextlib import closing
from functools import cache
from itertools import accumulate
from typing import Any, cast

import msgspec
from sqlalchemy import Connection

from pubsub.protocol.batch import batch_bytes, message_sizes, slice_batch
from pubsub.protocol.messages import Batch
from pubsub.storage.marks import Marks, slice_marks
from pubsub.storage.rows import LENGTHS, batch_of

_ROWS = (
    "SELECT offset, published_at, key, headers, payload, batch FROM messages "
    "WHERE topic_id = ? AND offset >= ? AND offset < ? ORDER BY offset LIMIT ?"
)


def read_chunk(
    connection: Connection, topic_id: int, start: int, stop: int, limit: int, max_bytes: int
) -> tuple[Batch, Marks] | None:
    """The messages from offset `start` on, below `stop`, with the marks of their batches; None where there is none.

    At most `limit` of them, together at most `max_bytes`, but one at least; it may be fewer than there are.
    """
    bounds = (topic_id, start, stop, limit, max_bytes)
    return read_packed(connection, *bounds) or _read_rows(connection, *bounds)


def _read_rows(
    connection: Connection, topic_id: int, start: int, stop: int, limit: int, max_bytes: int
) -> tuple[Batch, Marks] | None:
    rows: list[tuple[Any, ...]] = []
    size = 0
    result = connection.exec_driver_sql(_ROWS, (topic_id, start, stop, limit))
    for row in cast(sqlite3.Cursor, result.cursor):
        size += len(row[4] or b"") + len(row[3] or "") + len(row[2] or "")
        if size > max_bytes and rows:
            break
        rows.append(row)
    result.close()
    if not rows:
        return None
    marks = [(position, row[5]) for position, row in enumerate(rows) if row[5] is not None]
    return batch_of([row[:5] for row in rows]), marks


# Packed by SQLite

FEWEST, MOST = 16, 4000
"""Fewer messages are read row by row; the times of more would not add up in 64 bits."""
LEAST_CAP, MOST_CAP = 256, 0xFFFF
"""A cell is packed that has at most so many bytes, or four times as many as the topic's messages have in the mean.
Where that is more than the second, messages are read row by row."""
TIMES_MASK = (1 << 50) - 1
"""Times are added up as what has passed since the first, in microseconds: 35 years of it."""


def _heads(kind: bytes) -> bytes:
    """How MessagePack begins cells of 0, 1, 2, ... bytes, three bytes each: SQL cannot make bytes, but cut them out."""
    return b"".join(kind + size.to_bytes(2, "big") for size in range(MOST_CAP + 1))


_TEXT_HEADS, _BINARY_HEADS = _heads(b"\xda"), _heads(b"\xc5")
_ARRAY = b"\xdd"
"""MessagePack's array with a length of four bytes."""

_FIRST = (
    "SELECT offset, published_at, key IS NOT NULL, headers IS NOT NULL, "
    "(SELECT bytes / max(messages, 1) FROM topics WHERE id = ?1) FROM messages "
    "WHERE topic_id = ?1 AND offset >= ?2 AND offset < ?3 ORDER BY offset LIMIT 1"
)

_payloads = msgspec.msgpack.Decoder(list[bytes | None])
_texts = msgspec.msgpack.Decoder(list[str | None])
_begins = msgspec.json.Decoder(list[tuple[int, int, str]])


@cache
def _can_pack() -> bool:
    """Whether SQLite keeps bytes whole that are 0: old ones end there."""
    with closing(sqlite3.connect(":memory:")) as connection:
        row = connection.execute("SELECT CAST(group_concat(x'6100', '') AS BLOB)").fetchone()
    return bool(row[0] == b"a\0")


def read_packed(
    connection: Connection, topic_id: int, start: int, stop: int, limit: int, max_bytes: int
) -> tuple[Batch, Marks] | None:
    """The same, where they can be packed; otherwise None."""
    if min(limit, max_bytes // LEAST_CAP) < FEWEST or not _can_pack():
        return None
    first = connection.exec_driver_sql(_FIRST, (topic_id, start, stop)).one_or_none()
    if first is None:
        return None
    offset, first_us, keyed, headed, mean_bytes = first
    if type(offset) is not int or type(first_us) is not int:  # damage, which the rows are to show
        return None
    cap = max(LEAST_CAP, 4 * (mean_bytes or 0))
    messages = min(limit, MOST, stop - offset, max_bytes // (mean_bytes or 1))
    if messages < FEWEST or cap > MOST_CAP:
        return None
    heads = [_BINARY_HEADS, _TEXT_HEADS] if keyed or headed else [_BINARY_HEADS]
    row = connection.exec_driver_sql(
        _packed(bool(keyed), bool(headed)),
        (
            topic_id,
            offset,
            offset + messages,
            cap,
            first_us,
            TIMES_MASK,
            *(some[: 3 * cap + 3] for some in heads),
        ),
    ).one()
    found = _unpack(offset, first_us, bool(keyed), bool(headed), tuple(row))
    if found is None or batch_bytes(found[0]) <= max_bytes:
        return found
    batch, marks = found
    fitting = max(1, bisect_right(list(accumulate(message_sizes(batch))), max_bytes))
    return slice_batch(batch, 0, fitting), slice_marks(marks, 0, fitting)


def _unpack(
    offset: int, first_us: int, keyed: bool, headed: bool, row: tuple[Any, ...]
) -> tuple[Batch, Marks] | None:
    """What a packed chunk holds, which begins at that offset and time; None if it is not complete."""
    last, passed_us, begins, *columns = row
    if type(last) is not int or type(passed_us) is not int or None in columns or b"\\" in (begins or b""):
        return None
    array = _ARRAY + (last - offset + 1).to_bytes(4, "big")
    try:
        begun = _begins.decode(b"[%b]" % (begins or b""))
        payloads = _payloads.decode(array + columns.pop())
        texts = [_texts.decode(array + column) for column in columns]
    except (msgspec.DecodeError, UnicodeDecodeError):  # some are missing, or damaged: the rows are to say it
        return None
    times = _times(begun, offset, len(payloads), first_us, passed_us)
    if not times:
        return None
    batch = Batch(
        offset,
        None,
        times[0] if times[0] == times[-1] else times,
        texts.pop(0) if keyed else None,
        texts.pop(0) if headed else None,
        payloads,
    )
    return batch, [(begin - offset, mark) for begin, _, mark in begun]


def _times(
    begun: list[tuple[int, int, str]], offset: int, messages: int, first_us: int, passed_us: int
) -> list[int]:
    """The time of each message: that of its batch, as far as marks say where one begins; empty if that is not enough.

    Times never fall in a log, so each is at least what this has: they are all right if they add up to what they should.
    """
    times: list[int] = []
    time_us, added_us = first_us, 0
    for begin, begin_us, _ in [*begun, (offset + messages, 0, "")]:
        count = begin - offset - len(times)
        times += [time_us] * count
        added_us += count * ((time_us - first_us) & TIMES_MASK)
        time_us = begin_us
    return times if (len(times), added_us) == (messages, passed_us) else []


@cache
def _packed(keyed: bool, headed: bool) -> str:
    """What packs a chunk. Parameters: topic id, start, stop, largest cell, first time, mask, heads of payloads, texts.

    A message that has a larger cell, or one for which there is no column, is missing in a column.
    """
    names = ["key"] * keyed + ["headers"] * headed
    others = [f"{name} IS NULL" for name in ("key", "headers") if name not in names]
    payload = f"CASE WHEN {' AND '.join(others)} THEN {_cell('payload')} END" if others else _cell("payload")
    begin = """'[' || offset || ',' || published_at || ',"' || batch || '"]'"""
    columns = [f"CAST(group_concat({cell}, '') AS BLOB)" for cell in (*map(_cell, names), payload)]
    return (
        "SELECT max(offset), sum((published_at - ?5) & ?6), "
        f"CAST(group_concat(CASE WHEN batch IS NOT NULL THEN {begin} END) AS BLOB), {', '.join(columns)} "
        "FROM messages WHERE topic_id = ?1 AND offset >= ?2 AND offset < ?3"
    )


def _cell(name: str) -> str:
    """A cell as MessagePack has it."""
    length, heads = LENGTHS[name], "?7" if name == "payload" else "?8"
    return (
        f"CASE WHEN {length} <= ?4 THEN substr({heads}, 3 * {length} + 1, 3) || {name} "
        f"WHEN {name} IS NULL THEN x'c0' END"
    )
