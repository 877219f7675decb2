"""Compaction: of each key of a topic only the latest message is kept, and a removed key goes after a while.

It goes through the log from `topics.compacted_to` on, in bounded steps, and each message once: one whose key is known
from before supersedes the message that `latest_keys` names. The table is kept by these steps alone, so publishing
pays nothing for it. Messages without a key are left alone. Whatever state it is met in, half emptied too, going on
from any `compacted_to` that is not beyond what it knows leads to the same end: of two messages of a key, the one with
the lower offset goes.

Runs for the writer, within a transaction that others share.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pubsub.storage.rows import SIZE

STEP_ROWS = 128
"""Messages that one step looks at."""
_LOOKED_UP = 200
"""Keys in one look-up: its SQL is always the same."""


class Compacted(NamedTuple):
    """A topic after a step."""

    compacted_to: int
    messages: int
    size_bytes: int
    more: bool
    """Whether there may be more to do at once."""


_TOPIC = "SELECT committed, messages, bytes, compacted_to FROM topics WHERE id = ? AND set_aside IS NULL"


def compact(cursor: sqlite3.Cursor, topic_id: int, end: int, rows: int = STEP_ROWS) -> Compacted | None:
    """Look at the next messages below `end`, and remove what they supersede. None where the topic is served no more."""
    topic = cursor.execute(_TOPIC, (topic_id,)).fetchone()
    if topic is None:
        return None
    committed, messages, size_bytes, start = topic
    start, end = max(start, 0), min(end, committed)
    found = cursor.execute(
        "SELECT offset, key, CASE WHEN payload IS NULL THEN published_at END FROM messages "
        "WHERE topic_id = ? AND offset >= ? AND offset < ? ORDER BY offset LIMIT ?",
        (topic_id, start, end, rows),
    ).fetchall()
    more = len(found) == rows
    keyed = [row for row in found if row[1] is not None]
    latest = _look_up(cursor, topic_id, list(dict.fromkeys(row[1] for row in keyed)))
    superseded: list[int] = []
    news: dict[str, tuple[int, int | None]] = {}
    for offset, key, removed_us in keyed:
        known = latest.get(key)
        if known is not None and known >= offset:  # known from an earlier time that compaction was on
            superseded += [offset] if known > offset else []
            continue
        superseded += [] if known is None else [known]
        latest[key] = offset
        news[key] = (offset, removed_us)
    count, removed_bytes = _delete(cursor, topic_id, superseded)
    cursor.executemany(
        "INSERT INTO latest_keys VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET offset = excluded.offset, removed_at = excluded.removed_at",
        [(topic_id, key, offset, removed_us) for key, (offset, removed_us) in news.items()],
    )
    compacted_to = found[-1][0] + 1 if more else max(start, end)
    return _update(cursor, topic_id, compacted_to, messages - count, size_bytes - removed_bytes, more)


def remove_keys(
    cursor: sqlite3.Cursor, topic_id: int, before_us: int, end: int, rows: int = STEP_ROWS
) -> Compacted | None:
    """Let go of keys that were removed before an instant by messages below `end`: of those messages, too."""
    topic = cursor.execute(_TOPIC, (topic_id,)).fetchone()
    if topic is None:
        return None
    _, messages, size_bytes, compacted_to = topic
    gone = cursor.execute(
        "SELECT key, offset FROM latest_keys WHERE topic_id = ? AND removed_at < ? AND offset < ? "
        "ORDER BY removed_at LIMIT ?",
        (topic_id, before_us, min(end, compacted_to), rows),  # keys beyond are known from an earlier time
    ).fetchall()
    count, removed_bytes = _delete(cursor, topic_id, [offset for _, offset in gone])
    cursor.executemany(
        "DELETE FROM latest_keys WHERE topic_id = ? AND key = ?", [(topic_id, key) for key, _ in gone]
    )
    more = len(gone) == rows
    return _update(cursor, topic_id, compacted_to, messages - count, size_bytes - removed_bytes, more)


def forget_keys(cursor: sqlite3.Cursor, topic_id: int, rows: int = STEP_ROWS) -> Compacted | None:
    """Compaction is off: empty what it knew. `compacted_to` is -1 until that is done, then 0."""
    topic = cursor.execute(_TOPIC, (topic_id,)).fetchone()
    if topic is None:
        return None
    _, messages, size_bytes, _ = topic
    deleted = cursor.execute(
        "DELETE FROM latest_keys WHERE topic_id = ?1 AND key IN "
        "(SELECT key FROM latest_keys WHERE topic_id = ?1 LIMIT ?2)",
        (topic_id, rows),
    ).rowcount
    more = deleted == rows
    return _update(cursor, topic_id, -1 if more else 0, messages, size_bytes, more)


def _update(
    cursor: sqlite3.Cursor, topic_id: int, compacted_to: int, messages: int, size_bytes: int, more: bool
) -> Compacted:
    cursor.execute(
        "UPDATE topics SET compacted_to = ?, messages = ?, bytes = ? WHERE id = ?",
        (compacted_to, messages, size_bytes, topic_id),
    )
    return Compacted(compacted_to, messages, size_bytes, more)


def _look_up(cursor: sqlite3.Cursor, topic_id: int, keys: Sequence[str]) -> dict[str, int]:
    """Key -> offset of its latest message, where it is known."""
    marks = ",".join("?" * _LOOKED_UP)
    sql = f"SELECT key, offset FROM latest_keys WHERE topic_id = ? AND key IN ({marks})"
    found: dict[str, int] = {}
    for part in _parts(keys):
        found.update(cursor.execute(sql, (topic_id, *part, *part[:1] * (_LOOKED_UP - len(part)))).fetchall())
    return found


def _delete(cursor: sqlite3.Cursor, topic_id: int, offsets: Sequence[int]) -> tuple[int, int]:
    """Remove messages; returns how many of them there were, and what they took."""
    count, size_bytes = 0, 0
    marks = ",".join("?" * _LOOKED_UP)
    where = f"topic_id = ? AND offset IN ({marks})"
    for part in _parts(offsets):
        values = (topic_id, *part, *part[:1] * (_LOOKED_UP - len(part)))
        found, found_bytes = cursor.execute(
            f"SELECT count(*), coalesce(sum({SIZE}), 0) FROM messages WHERE {where}", values
        ).fetchone()
        cursor.execute(f"DELETE FROM messages WHERE {where}", values)
        count += found
        size_bytes += found_bytes
    return count, size_bytes


def _parts(values: Sequence[object]) -> Iterator[tuple[object, ...]]:
    for start in range(0, len(values), _LOOKED_UP):
        yield tuple(values[start : start + _LOOKED_UP])
