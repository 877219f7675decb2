"""Reading the messages that are held for later: those that are due, a list of them, and whether some are there.

Runs in a reading thread, but for what is said to be a step. Within a topic they stand in order of (due time, schedule
id), as an index has them: what is due is found without a look at the others.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult


class HeldMessage(NamedTuple):
    """A row of `scheduled`."""

    schedule_id: int
    due_us: int
    key: str | None
    headers: str | None
    payload: bytes | None

    @property
    def size_bytes(self) -> int:
        return len(self.payload or b"") + len(self.key or "") + len(self.headers or "")


class DueMessages(NamedTuple):
    """What is due of a topic, in order, as far as the bounds allowed."""

    topic_id: int
    messages: list[HeldMessage]
    next_us: int | None
    """When the first message that was left is due, or None where none is left."""


_COLUMNS = "id, due_at, key, headers, payload"
_HELD = "SELECT count(*), coalesce(min(due_at), 0) FROM scheduled WHERE topic_id = ?"


def due(
    connection: Connection,
    topic_ids: Sequence[int],
    now_us: int,
    share_messages: int,
    share_bytes: int,
    max_bytes: int,
) -> list[DueMessages]:
    """What is due at `now_us`, topic by topic.

    Args:
        share_messages, share_bytes: Of each topic at most so many messages, and no more once there are so many bytes.
        max_bytes: Once there are so many of all topics, those behind are left out of the list.
    """
    found: list[DueMessages] = []
    for topic_id in topic_ids:
        if max_bytes <= 0:
            break
        rows = connection.exec_driver_sql(
            f"SELECT {_COLUMNS} FROM scheduled WHERE topic_id = ? AND due_at <= ? ORDER BY due_at, id LIMIT ?",
            (topic_id, now_us, share_messages),
        )
        taken = _take(rows, min(share_bytes, max_bytes))
        max_bytes -= sum(message.size_bytes for message in taken)
        found.append(DueMessages(topic_id, taken, _next_after(connection, topic_id, taken)))
    return found


def _take(rows: CursorResult[Any], max_bytes: int) -> list[HeldMessage]:
    """Rows until there are `max_bytes`; one at least, whatever its size."""
    taken: list[HeldMessage] = []
    for row in rows:
        taken.append(HeldMessage._make(row))
        max_bytes -= taken[-1].size_bytes
        if max_bytes <= 0:
            break
    rows.close()
    return taken


def _next_after(connection: Connection, topic_id: int, taken: Sequence[HeldMessage]) -> int | None:
    after = (taken[-1].due_us, taken[-1].schedule_id) if taken else (-1, 0)
    found: Any = connection.exec_driver_sql(
        "SELECT due_at FROM scheduled WHERE topic_id = ? AND (due_at, id) > (?, ?) ORDER BY due_at, id LIMIT 1",
        (topic_id, *after),
    ).scalar()
    return None if found is None else int(found)


def held(
    connection: Connection, topic_id: int, after: tuple[int, int], limit: int, max_bytes: int
) -> list[HeldMessage]:
    """Messages behind `after`, a (due time, schedule id): at most `limit`, and no more once there are `max_bytes`."""
    rows = connection.exec_driver_sql(
        f"SELECT {_COLUMNS} FROM scheduled WHERE topic_id = ? AND (due_at, id) > (?, ?) ORDER BY due_at, id LIMIT ?",
        (topic_id, *after, limit),
    )
    return _take(rows, max_bytes)


def held_ids(connection: Connection, topic_id: int, schedule_ids: Sequence[int]) -> list[int]:
    """Those of the ids that are there, in the order given."""
    query = "SELECT 1 FROM scheduled WHERE id = ? AND topic_id = ?"
    return [
        schedule_id
        for schedule_id in schedule_ids
        if connection.exec_driver_sql(query, (schedule_id, topic_id)).scalar() is not None
    ]


def held_of(connection: Connection, topic_id: int) -> tuple[int, int]:
    """How many messages are held for a topic, and when the first of them is due (0 where there is none)."""
    row = connection.exec_driver_sql(_HELD, (topic_id,)).one()
    return int(row[0]), int(row[1])


def count_held(cursor: sqlite3.Cursor, topic_id: int) -> tuple[int, int]:
    """The same, as a step of the writing thread."""
    count, first_us = cursor.execute(_HELD, (topic_id,)).fetchone()
    return count, first_us
