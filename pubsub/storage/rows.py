"""Columns to SQL and rows to columns: the hot path between a batch and the table `messages`.

A statement inserts many rows: SQLite then works through them without taking Python's global lock for each, so
the event loop runs beside it. Rows differ only in what they carry; topic, time and offset are computed by
SQLite from three numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import chain, count
from typing import Any, cast

from pubsub.protocol.batch import column_bytes
from pubsub.protocol.messages import Batch

BLOCK_ROWS = 256
"""Rows of the largest statement. Smaller blocks are powers of two, so that few statements need preparing."""

COPIED_BYTES = 1024
"""A payload up to this size is copied sooner than its type is adapted by the driver."""

LENGTHS = {
    "payload": "length(payload)",
    "key": "length(CAST(key AS BLOB))",
    "headers": "length(CAST(headers AS BLOB))",
}
"""Column -> the bytes of a cell of it."""
SIZE = " + ".join(f"coalesce({length}, 0)" for length in LENGTHS.values())
"""What a row of `messages` counts for in `topics.bytes`. SQLite reads the whole row for it: 0.25 ms for 1 MB."""


@cache
def insert_rows(rows: int, keyed: bool, headed: bool, marked: bool) -> str:
    """Insert rows. Parameters: topic id, first offset, time, then of each row what it carries.

    What no row carries is no parameter: the driver takes longer to bind a None than SQLite to insert the row.

    Args:
        keyed, headed: They carry a key, headers; in any case a payload.
        marked: Each carries its mark before these, 0 for none; otherwise only the first carries one, or None.
    """
    numbers = count(4)
    values = []
    for row in range(rows):
        mark = f"nullif(?{next(numbers)},0)" if marked else "NULL" if row else f"?{next(numbers)}"
        key, headers = (f"?{next(numbers)}" if carried else "NULL" for carried in (keyed, headed))
        values.append(f"(?1,?2+{row},?3,{key},{headers},?{next(numbers)},{mark})")
    return f"INSERT INTO messages VALUES {','.join(values)}"


_INSERT_ONE = insert_rows(1, False, False, False)


@lru_cache
def blocks(rows: int) -> tuple[tuple[int, int], ...]:
    """Cut `rows` into (start, length): as many whole blocks as there are, then falling powers of two."""
    whole = rows - rows % BLOCK_ROWS
    cut = [(start, BLOCK_ROWS) for start in range(0, whole, BLOCK_ROWS)]
    start, length = whole, BLOCK_ROWS // 2
    while start < rows:
        if rows - start >= length:
            cut.append((start, length))
            start += length
        length //= 2
    return tuple(cut)


def plan_inserts(
    topic_id: int,
    first_offset: int,
    published_us: int,
    keys: list[str | None] | None,
    headers: list[str | None] | None,
    payloads: list[bytes | None],
    marks: list[str | None],
) -> Iterable[tuple[str, tuple[Any, ...]]]:
    """The statements, with their parameters, that store messages.

    Args:
        marks: Of the first messages, where each has one or not; those behind them have none.
    """
    if (
        len(payloads) == 1 and keys is None and headers is None
    ):  # the most usual one, on a cold cache: no detours
        return [
            (_INSERT_ONE, (topic_id, first_offset, published_us, marks[0] if marks else None, payloads[0]))
        ]
    return _plan_blocks(topic_id, first_offset, published_us, keys, headers, payloads, marks)


def _plan_blocks(
    topic_id: int,
    first_offset: int,
    published_us: int,
    keys: list[str | None] | None,
    headers: list[str | None] | None,
    payloads: list[bytes | None],
    marks: list[str | None],
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for start, length in blocks(len(payloads)):
        stop = start + length
        head: tuple[Any, ...] = (topic_id, first_offset + start, published_us)
        columns: list[list[Any]] = [column[start:stop] for column in (keys, headers) if column is not None]
        columns.append(quick_to_bind(payloads[start:stop]))
        first_mark, *others = marks[start:stop] or (None,)
        marked = any(others)
        if marked:
            rest = [mark or 0 for mark in others]
            columns.insert(0, [first_mark or 0, *rest, *[0] * (length - 1 - len(rest))])
        else:
            head = (*head, first_mark)
        cells = columns[0] if len(columns) == 1 else chain.from_iterable(zip(*columns, strict=True))
        yield insert_rows(length, keys is not None, headers is not None, marked), (*head, *cells)


def quick_to_bind(payloads: list[bytes | None]) -> list[Any]:
    """The same payloads as the driver binds them soonest.

    It takes bytes for a type that may have to be adapted, and looks for how, one by one; bytearrays it does not.
    """
    if len(payloads[0] or b"") > COPIED_BYTES or None in payloads:
        return payloads
    return list(map(bytearray, cast("list[bytes]", payloads)))


def stored_bytes(
    keys: list[str | None] | None, headers: list[str | None] | None, payloads: list[bytes | None]
) -> int:
    """What a batch counts for in `topics.bytes`: as `SIZE` has it, row by row."""
    size_bytes = column_bytes(payloads)
    for column in (keys, headers):
        if column is not None:
            text = "".join(filter(None, column))
            size_bytes += len(text) if text.isascii() else len(text.encode())
    return size_bytes


def batch_of(rows: list[tuple[int, int, str | None, str | None, bytes | None]]) -> Batch:
    """Turn rows of offset, time, key, headers, payload into a batch; what all rows share is written once."""
    offsets, times, keys, headers, payloads = map(list, zip(*rows, strict=True))
    messages = len(rows)
    return Batch(
        offsets[0],
        None if offsets[-1] - offsets[0] + 1 == messages else offsets,
        times[0] if times[0] == times[-1] else times,  # times never fall within a topic
        None if keys.count(None) == messages else keys,
        None if headers.count(None) == messages else headers,
        payloads,
    )
