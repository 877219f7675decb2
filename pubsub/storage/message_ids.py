"""Ids that applications give their messages: which of them are stored already, and where.

Runs for the writer, within its transaction. An id is known for the topic's window, and to those behind it
in the same transaction. What has left the window goes little by little, as new ids come: no timer, no scan.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

IDS_AT_ONCE = 256
"""Ids in one statement at most. The number is rounded up to a power of two, so that few statements need preparing."""

EXPIRED_AT_ONCE = 2
"""So many ids that have left the window go for each that comes: what is left of an old rush shrinks."""


class Sifted(NamedTuple):
    """What is to be done with a batch."""

    offsets: list[int]
    """The offset of each of its messages, also of those that are stored already."""
    keep: list[int]
    """Positions of the messages that are new."""
    fresh: dict[str, int]
    """Their ids, where they have one, and their offsets."""


def sift(
    cursor: sqlite3.Cursor,
    topic_id: int,
    message_ids: Sequence[str | None],
    next_offset: int,
    since_us: int,
    pending: Mapping[str, int],
) -> Sifted:
    """Tell the messages that are new from those whose ids were stored at `since_us` or later.

    Args:
        pending: Ids stored earlier in this transaction, with their offsets.
    """
    stored = _stored(cursor, topic_id, message_ids, since_us)
    sifted = Sifted([], [], {})
    for position, message_id in enumerate(message_ids):
        offset = None
        if message_id is not None:
            offset = sifted.fresh.get(message_id, pending.get(message_id, stored.get(message_id)))
        if offset is None:
            offset = next_offset + len(sifted.keep)
            sifted.keep.append(position)
            if message_id is not None:
                sifted.fresh[message_id] = offset
        sifted.offsets.append(offset)
    return sifted


def pick(column: list[Any], positions: Sequence[int]) -> list[Any]:
    """The cells of a column at these positions."""
    return [column[position] for position in positions]


def _stored(
    cursor: sqlite3.Cursor, topic_id: int, message_ids: Sequence[str | None], since_us: int
) -> dict[str, int]:
    wanted = [message_id for message_id in message_ids if message_id is not None]
    found: dict[str, int] = {}
    for start in range(0, len(wanted), IDS_AT_ONCE):
        part = wanted[start : start + IDS_AT_ONCE]
        places = 1 << (len(part) - 1).bit_length()
        part += [part[0]] * (places - len(part))
        found.update(cursor.execute(_select(places), (topic_id, since_us, *part)).fetchall())
    return found


@cache
def _select(places: int) -> str:
    marks = ",".join("?" * places)
    return (
        "SELECT message_id, offset FROM message_ids "
        f"WHERE topic_id = ? AND published_at >= ? AND message_id IN ({marks})"
    )


def store(
    cursor: sqlite3.Cursor, topic_id: int, fresh: Mapping[str, int], now_us: int, expired_us: int
) -> None:
    """Remember ids, and forget some of those that were stored before `expired_us`."""
    cursor.executemany(
        "INSERT OR REPLACE INTO message_ids VALUES (?, ?, ?, ?)",
        [(topic_id, message_id, offset, now_us) for message_id, offset in fresh.items()],
    )
    cursor.execute(
        "DELETE FROM message_ids WHERE topic_id = ?1 AND message_id IN (SELECT message_id FROM message_ids "
        "WHERE topic_id = ?1 AND published_at < ?2 ORDER BY published_at LIMIT ?3)",
        (topic_id, expired_us, EXPIRED_AT_ONCE * len(fresh)),
    )
