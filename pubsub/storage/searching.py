"""Looking through a log for messages with a key or headers, a bounded part at a time.

There is no index on either: a search reads the rows of a part, which is as many as can be looked at in a moment,
and says how far it has come. Payloads are read of what is found alone.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection

from pubsub.protocol.messages import Batch
from pubsub.storage.rows import batch_of

SEARCH_ROWS = 20_000
"""Rows that one search looks at, at most."""
SEARCH_SECONDS = 0.05
"""When so much time has passed, a search comes to an end after the step under way."""
STEP_ROWS = 2_000

_STEP = (
    "SELECT max(offset), count(*) FROM (SELECT offset FROM messages "
    "WHERE topic_id = ? AND offset >= ? AND offset < ? ORDER BY offset LIMIT ?)"
)
_FOUND = (
    "SELECT offset, published_at, key, headers, payload FROM messages "
    "WHERE topic_id = ? AND offset >= ? AND offset <= ?"
)


class Found(NamedTuple):
    """What a search has found, and the offset from which to go on: there is nothing more before it."""

    batch: Batch | None
    position: int


def search(
    connection: Connection,
    topic_id: int,
    start: int,
    stop: int,
    limit: int,
    max_bytes: int,
    key: str | None,
    headers: dict[str, str],
) -> Found:
    """The messages in [start, stop) that have this key (None: any) and all these headers, within the bounds.

    One message at least is found, whatever its size, if it is in the part that is searched.
    """
    conditions, values = _conditions(key, headers)
    sql = f"{_FOUND}{conditions} ORDER BY offset LIMIT ?"
    rows: list[tuple[int, int, str | None, str | None, bytes | None]] = []
    size, looked_at, position = 0, 0, start
    until = time.monotonic() + SEARCH_SECONDS
    while position < stop and looked_at < SEARCH_ROWS:
        last, count = connection.exec_driver_sql(_STEP, (topic_id, position, stop, STEP_ROWS)).one()
        if last is None:
            position = stop
            break
        result = connection.exec_driver_sql(sql, (topic_id, position, last, *values, limit - len(rows)))
        for row in cast(sqlite3.Cursor, result.cursor):
            size += len(row[4] or b"") + len(row[3] or "") + len(row[2] or "")
            if size > max_bytes and rows:
                result.close()
                return Found(batch_of(rows), rows[-1][0] + 1)
            rows.append(row)
        result.close()
        if len(rows) >= limit:
            position = rows[-1][0] + 1
            break
        looked_at += count
        position = last + 1 if count == STEP_ROWS else stop
        if time.monotonic() > until:
            break
    return Found(batch_of(rows) if rows else None, position)


def _conditions(key: str | None, headers: dict[str, str]) -> tuple[str, list[Any]]:
    """SQL and its parameters. Names of headers are parameters too, so that none can be more than a name."""
    sql, values = "", list[Any]()
    if key is not None:
        sql += " AND key = ?"
        values.append(key)
    for name, value in headers.items():
        sql += (
            " AND headers IS NOT NULL AND EXISTS "
            "(SELECT 1 FROM json_each(messages.headers) WHERE json_each.key = ? AND json_each.value = ?)"
        )
        values += (name, value)
    return sql, values


def kept_from(connection: Connection, topic_id: int) -> int:
    """The first kept offset of a topic as the file has it now; 0 where it has no such topic."""
    found = connection.exec_driver_sql("SELECT first_offset FROM topics WHERE id = ?", (topic_id,)).scalar()
    return found or 0


def count_from(connection: Connection, topic_id: int, start: int, stop: int) -> int:
    """How many messages a topic has in [start, stop)."""
    found = connection.exec_driver_sql(
        "SELECT count(*) FROM messages WHERE topic_id = ? AND offset >= ? AND offset < ?",
        (topic_id, start, stop),
    ).scalar()
    return found or 0
