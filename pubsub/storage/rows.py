"""Columns to SQL and rows to columns: the hot path between a batch and the table `messages`.

A statement inserts many rows: SQLite then works through them without taking Python's global lock for each, so
the event loop runs beside it. Rows differ only in what they carry; topic, time and offset are computed by
SQLite from three numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import chain, count
from typing import Any

from pubsub.protocol.batch import column_bytes
from pubsub.protocol.messages import Batch

BLOCK_ROWS = 256
"""Rows of the largest statement. Smaller blocks are powers of two, so that few statements need preparing."""

SELECT_ROWS = (
    "SELECT offset, published_at, key, headers, payload FROM messages "
    "WHERE topic_id = ? AND offset >= ? AND offset < ? ORDER BY offset LIMIT ?"
)


SIZE = " + ".join(
    f"coalesce(length({cell}), 0)" for cell in ("payload", "CAST(key AS BLOB)", "CAST(headers AS BLOB)")
)
"""What a row of `messages` counts for in `topics.bytes`. Read from the row's head: a large payload costs nothing."""


@cache
def insert_rows(rows: int, plain: bool, marked: bool) -> str:
    """Insert rows. Parameters: topic id, first offset, time, then of each row what it carries.

    Args:
        plain: They carry a payload; otherwise key, headers, payload.
        marked: Each carries its mark before that; otherwise a mark before the first row's cells is that of this row,
            and the others have none.
    """
    parameters = count(4)
    values = []
    for row in range(rows):
        mark = f"?{next(parameters)}" if marked or row == 0 else "NULL"
        cells = "NULL,NULL" if plain else f"?{next(parameters)},?{next(parameters)}"
        values.append(f"(?1,?2+{row},?3,{cells},?{next(parameters)},{mark})")
    return f"INSERT INTO messages VALUES {','.join(values)}"


_INSERT_ONE = insert_rows(1, True, False)


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
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The statements, with their parameters, that store messages.

    Args:
        marks: Of the first messages, where each has one or not; those behind them have none.
    """
    messages = len(payloads)
    plain = keys is None and headers is None
    for start, length in blocks(messages):
        head: tuple[Any, ...] = (topic_id, first_offset + start, published_us)
        part = payloads[start : start + length] if length < messages else payloads
        if length == 1 and plain:
            yield _INSERT_ONE, (*head, marks[start] if start < len(marks) else None, part[0])
            continue
        columns: list[Sequence[Any]] = [part]
        if not plain:
            key_part = keys[start : start + length] if keys else [None] * length
            header_part = headers[start : start + length] if headers else [None] * length
            columns = [key_part, header_part, part]
        first_mark, *others = marks[start : start + length] or [None]
        marked = any(others)
        if marked:
            columns.insert(0, [first_mark, *others, *[None] * (length - 1 - len(others))])
        else:
            head = (*head, first_mark)
        cells = part if len(columns) == 1 else chain.from_iterable(zip(*columns, strict=True))
        yield insert_rows(length, plain, marked), (*head, *cells)


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
    """Turn rows of `SELECT_ROWS`, at least one, into a batch; what all rows share is written once."""
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
