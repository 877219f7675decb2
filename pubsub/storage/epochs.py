"""The table `epochs`: at which offset each epoch of a copy's log began (core/epochs).

The owner of a topic of which no row tells has written all of it in one epoch; any other copy of such a topic has
nothing yet.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from sqlalchemy import Connection

from pubsub.core.epochs import EpochStart


def load_epochs(connection: Connection) -> dict[int, tuple[EpochStart, ...]]:
    """Topic id -> its epochs, oldest first."""
    found: dict[int, list[EpochStart]] = {}
    for topic_id, epoch, start, lossy, owner in connection.exec_driver_sql(
        "SELECT topic_id, epoch, start_offset, lossy, owner FROM epochs ORDER BY topic_id, epoch"
    ):
        found.setdefault(topic_id, []).append(EpochStart(epoch, start, bool(lossy), owner))
    return {topic_id: tuple(epochs) for topic_id, epochs in found.items()}


def read_epochs(cursor: sqlite3.Cursor, topic_id: int) -> tuple[EpochStart, ...]:
    """A topic's epochs, oldest first, as they stand in the transaction that is open."""
    rows = cursor.execute(
        "SELECT epoch, start_offset, lossy, owner FROM epochs WHERE topic_id = ? ORDER BY epoch", (topic_id,)
    )
    return tuple(EpochStart(epoch, start, bool(lossy), owner) for epoch, start, lossy, owner in rows)


def add_epochs(cursor: sqlite3.Cursor, topic_id: int, epochs: Iterable[EpochStart]) -> None:
    """Add to a topic's list."""
    rows = [(topic_id, entry.epoch, entry.start, entry.lossy, entry.owner) for entry in epochs]
    cursor.executemany("INSERT OR REPLACE INTO epochs VALUES (?, ?, ?, ?, ?)", rows)


def store_epochs(cursor: sqlite3.Cursor, topic_id: int, epochs: Iterable[EpochStart]) -> None:
    """Replace a topic's list."""
    cursor.execute("DELETE FROM epochs WHERE topic_id = ?", (topic_id,))
    add_epochs(cursor, topic_id, epochs)
