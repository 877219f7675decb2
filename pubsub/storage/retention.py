"""Taking messages from the start of a log, and what else is kept for a while only, in bounded steps.

All of it runs in the writing thread, within a transaction that others share: a step is to take a few milliseconds.
What is removed goes in the same transaction that moves `topics.first_offset`, so nobody ever finds a message gone
that the topic still claims to keep.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from sqlalchemy import Connection

from pubsub.config import MIB
from pubsub.core.retention import Removal
from pubsub.storage.rows import SIZE

STEP_ROWS = 128
"""Messages that one step removes at most ..."""
STEP_BYTES = MIB // 2
"""... and their size, unless it is a single message: the pages of large ones are each looked at."""


class Trimmed(NamedTuple):
    """A topic after a step."""

    first_offset: int
    messages: int
    size_bytes: int
    oldest_us: int | None
    """When the oldest message that is left was published."""
    removed: int
    """How many messages the step took away."""


_TOPIC = "SELECT first_offset, committed, messages, bytes FROM topics WHERE id = ? AND set_aside IS NULL"

# `total - size` is what the messages before a row take. Each condition holds for a prefix of the log, so the rows
# for which any of them holds are a prefix too: core/retention.count_removed says the same in Python.
_PREFIX = f"""
SELECT count(*), max(offset), max(total) FROM (
  SELECT offset, published_at, size, row_number() OVER log AS number, sum(size) OVER log AS total
  FROM (
    SELECT offset, published_at, {SIZE} AS size
    FROM messages WHERE topic_id = :topic AND offset < :committed ORDER BY offset LIMIT :rows
  )
  WINDOW log AS (ORDER BY offset ROWS UNBOUNDED PRECEDING)
)
WHERE (number = 1 OR total <= :step_bytes)
  AND (
    offset < :below OR published_at < :before OR number <= :excess_messages OR total - size < :excess_bytes
  )
"""


def trim(
    cursor: sqlite3.Cursor,
    topic_id: int,
    removal: Removal,
    rows: int = STEP_ROWS,
    size_bytes: int = STEP_BYTES,
) -> Trimmed | None:
    """Remove the first messages of a topic that may go, in a step. None where it is served no more.

    Args:
        rows, size_bytes: bounds of the step; one message goes whatever its size.
    """
    topic = cursor.execute(_TOPIC, (topic_id,)).fetchone()
    if topic is None:
        return None
    first_offset, committed, messages, total_bytes = topic
    excess_messages = 0 if removal.keep_messages is None else messages - removal.keep_messages
    excess_bytes = 0 if removal.keep_bytes is None else total_bytes - removal.keep_bytes
    values = {
        "topic": topic_id,
        "committed": committed,
        "rows": rows,
        "step_bytes": size_bytes,
        "below": removal.below,
        "before": removal.before_us,
        "excess_messages": excess_messages,
        "excess_bytes": excess_bytes,
    }
    removed, last, removed_bytes = cursor.execute(_PREFIX, values).fetchone()
    if removed:
        first_offset = last + 1
        messages -= removed
        total_bytes -= removed_bytes
        _delete_through(cursor, topic_id, last)
        cursor.execute(
            "UPDATE topics SET first_offset = ?, messages = ?, bytes = ? WHERE id = ?",
            (first_offset, messages, total_bytes, topic_id),
        )
    oldest_us = read_oldest(cursor, topic_id)
    return Trimmed(first_offset, messages, total_bytes, oldest_us, removed)


def _delete_through(cursor: sqlite3.Cursor, topic_id: int, last: int) -> None:
    compacted = cursor.execute(
        "SELECT 1 FROM topics WHERE id = ? AND compacted_to <> 0", (topic_id,)
    ).fetchone()
    if compacted is not None:
        cursor.execute(
            "DELETE FROM latest_keys WHERE topic_id = ?1 AND offset <= ?2 AND key IN "
            "(SELECT key FROM messages WHERE topic_id = ?1 AND offset <= ?2 AND key IS NOT NULL)",
            (topic_id, last),
        )
    cursor.execute("DELETE FROM messages WHERE topic_id = ? AND offset <= ?", (topic_id, last))


_OLDEST = "SELECT published_at FROM messages WHERE topic_id = ? ORDER BY offset LIMIT 1"


def read_oldest(cursor: sqlite3.Cursor, topic_id: int) -> int | None:
    """When the oldest message of a topic was published; None where there is none."""
    found = cursor.execute(_OLDEST, (topic_id,)).fetchone()
    return None if found is None else int(found[0])


# What else is kept for a while


def oldest_ids(connection: Connection) -> list[tuple[int, int]]:
    """Topic id, and when its oldest message id was stored: looks once at each topic, not at each id."""
    found = connection.exec_driver_sql(
        "WITH RECURSIVE topic(id) AS (SELECT min(topic_id) FROM message_ids UNION ALL "
        "SELECT (SELECT min(topic_id) FROM message_ids WHERE topic_id > id) FROM topic WHERE id IS NOT NULL) "
        "SELECT id, (SELECT min(published_at) FROM message_ids WHERE topic_id = id) "
        "FROM topic WHERE id IS NOT NULL"
    )
    return [(topic_id, stored_us) for topic_id, stored_us in found]


def forget_ids(cursor: sqlite3.Cursor, topic_id: int, before_us: int, rows: int = STEP_ROWS) -> int:
    """Forget message ids that were stored before an instant; returns how many, at most `rows`."""
    return cursor.execute(
        "DELETE FROM message_ids WHERE topic_id = ?1 AND message_id IN "
        "(SELECT message_id FROM message_ids WHERE topic_id = ?1 AND published_at < ?2 ORDER BY published_at LIMIT ?3)",
        (topic_id, before_us, rows),
    ).rowcount


def stale_producers(
    connection: Connection, after: tuple[int, int], before_us: int, rows: int
) -> tuple[list[tuple[int, int]], tuple[int, int] | None]:
    """Of the next `rows` producers behind `after`, those that have not published since an instant.

    Returns: their keys, and behind which key to look on; None: that was all.
    """
    looked_at = connection.exec_driver_sql(
        "SELECT topic_id, producer, updated_at FROM producers WHERE (topic_id, producer) > (?, ?) "
        "ORDER BY topic_id, producer LIMIT ?",
        (*after, rows),
    ).all()
    stale = [(topic_id, producer) for topic_id, producer, updated_at in looked_at if updated_at < before_us]
    return stale, (looked_at[-1][0], looked_at[-1][1]) if len(looked_at) == rows else None


def forget_producers(cursor: sqlite3.Cursor, producers: list[tuple[int, int]], before_us: int) -> None:
    """Forget these producers, unless they have published meanwhile."""
    rows = [(topic_id, producer, before_us) for topic_id, producer in producers]
    cursor.executemany("DELETE FROM producers WHERE topic_id = ? AND producer = ? AND updated_at < ?", rows)


# The file


class Pages(NamedTuple):
    """Pages of the file."""

    free: int
    total: int


def count_pages(connection: Connection) -> Pages:
    """How many pages the file has, and how many of them hold nothing."""
    free = connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0
    return Pages(free, connection.exec_driver_sql("PRAGMA page_count").scalar() or 0)


def give_back(cursor: sqlite3.Cursor, pages: int) -> int:
    """Give pages that hold nothing back to the file system, at most `pages`; returns how many it were."""
    (before,) = cursor.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(before, pages)):
        # One by one: the driver would take a single step, that is one page, of a larger number too.
        cursor.execute("PRAGMA incremental_vacuum(1)").fetchall()
    (after,) = cursor.execute("PRAGMA freelist_count").fetchone()
    return int(before - after)
