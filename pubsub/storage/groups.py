"""Rows of groups: statements that store what changed, and reading a group, its messages and its dead letters.

What builds statements is called in the event loop and does no I/O; what takes a connection runs in a reading or
the writing thread. Rows that are alike are written by one statement for a whole run of offsets, so that SQLite
works through them without taking Python's global lock for each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from pubsub.core.group_state import Changes, Row
from pubsub.protocol.messages import Batch
from pubsub.storage.given_up import OF_DEAD_TOPICS, GivenUp
from pubsub.storage.rows import SIZE, batch_of
from pubsub.storage.work import Statement, run_statements

_PUT_RUN = (
    "INSERT OR REPLACE INTO group_messages WITH RECURSIVE run(at) AS "
    "(SELECT ?3 UNION ALL SELECT at + 1 FROM run WHERE at < ?4) SELECT ?1, ?2, at, ?5, ?6, ?7, ?8 FROM run"
)
_DELETE_RUN = (
    "DELETE FROM group_messages WHERE topic_id = ? AND group_name = ? AND offset >= ? AND offset <= ?"
)


class StoredGroup(NamedTuple):
    """A group as its rows have it."""

    topic_id: int
    name: str
    cursor: int
    options: dict[str, Any]
    created_us: int
    rows: list[Row]
    dead: int
    """Its dead letters."""


class DeadLetter(NamedTuple):
    """A row of `dead_letters`, and what is left of the message that it was."""

    topic_id: int
    offset: int
    source_offset: int
    source_key: str | None
    """Key of the original message."""
    source_kept: bool
    """Whether the original message is still in its topic."""


# Statements


def change_group(topic_id: int, name: str, changes: Changes) -> list[Statement]:
    """Store what changed in a group."""
    statements: list[Statement] = [
        ("UPDATE groups SET cursor = ? WHERE topic_id = ? AND name = ?", [(changes.cursor, topic_id, name)])
    ]
    if changes.gone:
        statements.append((_DELETE_RUN, [(topic_id, name, *run) for run in changes.gone]))
    if changes.runs:
        statements.append(
            (
                _PUT_RUN,
                [
                    (topic_id, name, run.first, run.last, run.state, run.attempts, run.due_us, run.member)
                    for run in changes.runs
                ],
            )
        )
    return statements


def create_group(
    topic_id: int, name: str, cursor: int, options: dict[str, Any], now_us: int
) -> list[Statement]:
    """A new group without entries."""
    text = msgspec.json.encode(options).decode()
    return [("INSERT INTO groups VALUES (?, ?, ?, ?, ?)", [(topic_id, name, cursor, text, now_us)])]


def reset_group(topic_id: int, name: str, cursor: int, given_up: Sequence[Row]) -> list[Statement]:
    """Go on elsewhere, and forget every entry but those of messages that were given up."""
    return [
        ("DELETE FROM group_messages WHERE topic_id = ? AND group_name = ?", [(topic_id, name)]),
        (
            "INSERT INTO group_messages VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(topic_id, name, r.offset, r.state, r.attempts, r.due_us, r.member) for r in given_up],
        ),
        ("UPDATE groups SET cursor = ? WHERE topic_id = ? AND name = ?", [(cursor, topic_id, name)]),
    ]


def delete_group(topic_id: int, name: str) -> list[Statement]:
    """The group and its entries; its dead letters stay messages of their topic, and nobody's."""
    return [
        ("DELETE FROM group_messages WHERE topic_id = ? AND group_name = ?", [(topic_id, name)]),
        ("DELETE FROM groups WHERE topic_id = ? AND name = ?", [(topic_id, name)]),
        ("DELETE FROM dead_letters WHERE source_topic_id = ? AND group_name = ?", [(topic_id, name)]),
    ]


def bury(
    topic_id: int, given_up: Sequence[GivenUp], dead_topic_id: int, first_offset: int
) -> list[Statement]:
    """Entries have become the messages of a dead letter topic from `first_offset` on; in that transaction."""
    return [
        (_DELETE_RUN, [(topic_id, gone.group, gone.offset, gone.offset) for gone in given_up]),
        (
            "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    dead_topic_id,
                    first_offset + n,
                    topic_id,
                    gone.offset,
                    gone.group,
                    gone.reason,
                    gone.attempts,
                )
                for n, gone in enumerate(given_up)
            ],
        ),
    ]


_UNCOUNT = f"""
UPDATE topics SET (messages, bytes) = (
  SELECT topics.messages - count(*), topics.bytes - coalesce(sum({SIZE}), 0)
  FROM messages WHERE topic_id = ?1 AND offset = ?2
) WHERE id = ?1
"""


def unbury(letters: Sequence[DeadLetter]) -> list[Statement]:
    """Dead letters are dead letters no more: they go from their topic. Other messages of it stay where they are."""
    named = [(letter.topic_id, letter.offset) for letter in letters]
    return [
        (_UNCOUNT, named),
        ("DELETE FROM messages WHERE topic_id = ? AND offset = ?", named),
        ("DELETE FROM dead_letters WHERE topic_id = ? AND offset = ?", named),
    ]


def revive(
    cursor: sqlite3.Cursor, topic_id: int, name: str, letters: Sequence[DeadLetter], again: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """Dead letters go; messages at offsets `again` are ready in their group once more. A step of the writing thread.

    Returns: id of each dead letter topic -> how many messages it has now, and their size.
    """
    run_statements(cursor, unbury(letters))
    cursor.executemany(
        "INSERT OR IGNORE INTO group_messages VALUES (?, ?, ?, 'ready', 0, 0, '')",
        [(topic_id, name, offset) for offset in again],
    )
    sizes: dict[int, tuple[int, int]] = {}
    for dead_id in {letter.topic_id for letter in letters}:
        cursor.execute("SELECT messages, bytes FROM topics WHERE id = ?", (dead_id,))
        sizes[dead_id] = cursor.fetchone()
    return sizes


def forget_dead_letters(topic_id: int, first_offset: int) -> list[Statement]:
    """Retention took the dead letters before `first_offset`."""
    return [("DELETE FROM dead_letters WHERE topic_id = ? AND offset < ?", [(topic_id, first_offset)])]


def forget_source(topic_id: int) -> list[Statement]:
    """A topic was deleted: its dead letters, which are another's messages, are no group's any more."""
    return [("DELETE FROM dead_letters WHERE source_topic_id = ?", [(topic_id,)])]


# Reading

_ENTRIES = (
    "SELECT g.offset, g.state, g.attempts, g.due_at, g.member, m.key FROM group_messages AS g "
    "LEFT JOIN messages AS m ON m.topic_id = g.topic_id AND m.offset = g.offset "
    "WHERE g.topic_id = ? AND g.group_name = ? ORDER BY g.offset"
)
_DEAD = f"SELECT count(*) FROM {OF_DEAD_TOPICS} WHERE d.source_topic_id = ? AND d.group_name = ?"


def load_groups(connection: Connection, topic_id: int | None = None) -> list[StoredGroup]:
    """Every group of the file, of topics that are served; or of one of them."""
    named = connection.exec_driver_sql(
        "SELECT g.topic_id, g.name FROM groups AS g JOIN topics AS t ON t.id = g.topic_id "
        "WHERE t.set_aside IS NULL AND (?1 IS NULL OR t.id = ?1)",
        (topic_id,),
    ).all()
    found = (load_group(connection, topic_id, name) for topic_id, name in named)
    return [group for group in found if group is not None]


def load_group(connection: Connection, topic_id: int, name: str) -> StoredGroup | None:
    """A group as it is stored, or None."""
    row = connection.exec_driver_sql(
        "SELECT cursor, options, created_at FROM groups WHERE topic_id = ? AND name = ?", (topic_id, name)
    ).one_or_none()
    if row is None:
        return None
    cursor, options, created_us = row
    rows = [Row(*cells) for cells in connection.exec_driver_sql(_ENTRIES, (topic_id, name))]
    return StoredGroup(
        topic_id,
        name,
        cursor,
        msgspec.json.decode(options),
        created_us,
        rows,
        count_dead(connection, topic_id, name),
    )


def count_dead(connection: Connection, topic_id: int, name: str) -> int:
    """How many dead letters a group has."""
    return connection.exec_driver_sql(_DEAD, (topic_id, name)).scalar() or 0


_AT = "SELECT offset, published_at, key, headers, payload FROM messages WHERE topic_id = ? AND offset = ?"


def read_offsets(
    connection: Connection, topic_id: int, offsets: Sequence[int], max_bytes: int
) -> tuple[Batch | None, list[int]]:
    """The messages at these offsets, in order, until they are `max_bytes` together; and which are not there."""
    rows: list[tuple[int, int, str | None, str | None, bytes | None]] = []
    missing: list[int] = []
    for offset in sorted(offsets):
        row = connection.exec_driver_sql(_AT, (topic_id, offset)).one_or_none()
        if row is None:
            missing.append(offset)
            continue
        max_bytes -= len(row[4] or b"") + len(row[3] or "") + len(row[2] or "")
        if max_bytes < 0 and rows:
            break
        rows.append((row[0], row[1], row[2], row[3], row[4]))
    return (batch_of(rows) if rows else None), missing


def dead_letters(connection: Connection, topic_id: int, name: str, most: int) -> list[DeadLetter]:
    """Dead letters of a group, the oldest first."""
    rows = connection.exec_driver_sql(
        f"SELECT d.topic_id, d.offset, d.source_offset, m.key, m.offset IS NOT NULL FROM {OF_DEAD_TOPICS}"
        "LEFT JOIN messages AS m ON m.topic_id = d.source_topic_id AND m.offset = d.source_offset "
        "WHERE d.source_topic_id = ? AND d.group_name = ? ORDER BY d.topic_id, d.offset LIMIT ?",
        (topic_id, name, most),
    )
    return [
        DeadLetter(dead_id, offset, source, key, bool(kept)) for dead_id, offset, source, key, kept in rows
    ]
