"""Reading consecutive messages of a topic: a bounded chunk, with the marks of the batches that begin in it.

The driver gives Python's global lock up and takes it again for each row; where other threads want it too, that takes
several times as long as the reading. So SQLite itself puts the cells of a whole chunk together, each as MessagePack has
it, in one step and without the lock. That is for the usual case: no holes, and no message much larger than the first.
Everything else is read row by row.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import Any, cast

import msgspec
from sqlalchemy import Connection

from pubsub.protocol.messages import Batch
from pubsub.storage.rows import batch_of

Marks = list[tuple[int, str]]
"""Position in a batch of columns, and the mark of the batch that begins there."""

_ROWS = (
    "SELECT offset, published_at, key, headers, payload, batch FROM messages "
    "WHERE topic_id = ? AND offset >= ? AND offset < ? ORDER BY offset LIMIT ?"
)


def read_run(
    connection: Connection, topic_id: int, start: int, stop: int, limit: int, max_bytes: int
) -> tuple[Batch, Marks] | None:
    """The messages from offset `start` on, below `stop`, with the marks of their batches; None where there is none.

    At most `limit` of them, together at most `max_bytes`, but one at least; it may be fewer than there are.
    """
    bounds = (topic_id, start, stop, limit, max_bytes)
    return _read_packed(connection, *bounds) or _read_rows(connection, *bounds)


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
"""Fewer messages are read row by row; the times of more, in microseconds, would not add up in 64 bits."""
LEAST_CAP, MOST_CAP = 256, 0xFFFF
"""What a packed message may have, in bytes: twice as much as the first, between these."""


def _heads(kind: bytes) -> bytes:
    """How MessagePack begins cells of 0, 1, 2, ... bytes, three bytes each: SQL cannot make bytes, but cut them out."""
    return b"".join(kind + size.to_bytes(2, "big") for size in range(MOST_CAP + 1))


_TEXT_HEADS, _BINARY_HEADS = _heads(b"\xda"), _heads(b"\xc5")
_ARRAY = b"\xdd"
"""MessagePack's array with a length of four bytes."""

_LENGTHS = {
    "key": "length(CAST(key AS BLOB))",
    "headers": "length(CAST(headers AS BLOB))",
    "payload": "length(payload)",
}
_FIRST = (
    "SELECT offset, published_at, key IS NOT NULL, headers IS NOT NULL, "
    f"{' + '.join(f'coalesce({length}, 0)' for length in _LENGTHS.values())} FROM messages "
    "WHERE topic_id = ? AND offset >= ? AND offset < ? ORDER BY offset LIMIT 1"
)

_payloads = msgspec.msgpack.Decoder(list[bytes | None])
_texts = msgspec.msgpack.Decoder(list[str | None])
_begins = msgspec.json.Decoder(list[tuple[int, int, str]])


def _read_packed(
    connection: Connection, topic_id: int, start: int, stop: int, limit: int, max_bytes: int
) -> tuple[Batch, Marks] | None:
    """The same, where they can be packed; otherwise None."""
    if min(limit, max_bytes // LEAST_CAP) < FEWEST:
        return None
    first = connection.exec_driver_sql(_FIRST, (topic_id, start, stop)).one_or_none()
    if first is None:
        return None
    offset, first_us, keyed, headed, size_bytes = first
    cap = max(LEAST_CAP, 2 * size_bytes)
    limit = min(limit, max_bytes // (cap * (1 + keyed + headed)), MOST)
    if limit < FEWEST or cap > MOST_CAP:
        return None
    heads = [_BINARY_HEADS, _TEXT_HEADS] if keyed or headed else [_BINARY_HEADS]
    parameters = (topic_id, offset, min(stop, offset + limit), cap, *(some[: 3 * cap + 3] for some in heads))
    row = connection.exec_driver_sql(_packed(bool(keyed), bool(headed)), parameters).one()
    last, sum_us, begins, *columns = row
    if last is None:  # retention came in between
        return None
    messages = last - offset + 1
    array = _ARRAY + messages.to_bytes(4, "big")
    try:
        begun = _begins.decode(b"[%b]" % (begins or b""))
        payloads = _payloads.decode(array + columns.pop())
        texts = [_texts.decode(array + column) for column in columns]
    except (msgspec.DecodeError, UnicodeDecodeError):  # some are missing, or damaged: the rows are to say it
        return None
    times = _times(begun, offset, messages, first_us)
    if sum(times) != sum_us:
        return None
    batch = Batch(
        offset,
        None,
        first_us if times[-1] == first_us else times,
        texts.pop(0) if keyed else None,
        texts.pop(0) if headed else None,
        payloads,
    )
    return batch, [(begin - offset, mark) for begin, _, mark in begun]


def _times(begun: list[tuple[int, int, str]], offset: int, messages: int, first_us: int) -> list[int]:
    """The time of each message: that of its batch, as far as marks say where one begins.

    Times never fall in a log, so each is at least what this has; they are all right if their sum is.
    """
    times: list[int] = []
    time_us = first_us
    for begin, begin_us, _ in begun:
        times += [time_us] * (begin - offset - len(times))
        time_us = begin_us
    return times + [time_us] * (messages - len(times))


@cache
def _packed(keyed: bool, headed: bool) -> str:
    """What packs a chunk. Parameters: topic id, start, stop, the largest cell, heads of payloads, of texts.

    A message that is larger, or has a cell for which there is no column, is missing among the payloads.
    """
    names = ["key"] * keyed + ["headers"] * headed
    others = [f"{name} IS NULL" for name in ("key", "headers") if name not in names]
    payload = f"CASE WHEN {' AND '.join(others)} THEN {_cell('payload')} END" if others else _cell("payload")
    begin = """'[' || offset || ',' || published_at || ',"' || batch || '"]'"""
    columns = [f"CAST(group_concat({cell}, '') AS BLOB)" for cell in (*map(_cell, names), payload)]
    return (
        "SELECT max(offset), sum(published_at), "
        f"CAST(group_concat(CASE WHEN batch IS NOT NULL THEN {begin} END) AS BLOB), {', '.join(columns)} "
        "FROM messages WHERE topic_id = ?1 AND offset >= ?2 AND offset < ?3"
    )


def _cell(name: str) -> str:
    """A cell as MessagePack has it."""
    length, heads = _LENGTHS[name], "?5" if name == "payload" else "?6"
    return (
        f"CASE WHEN {length} <= ?4 THEN substr({heads}, 3 * {length} + 1, 3) || {name} "
        f"WHEN {name} IS NULL THEN x'c0' END"
    )
