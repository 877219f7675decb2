"""The table `epochs`: at which offset each ownership of a replicated topic began, as far as a copy knows.

A copy takes over its owner's list whole, so the list may name epochs that begin beyond the copy's own end: of these
it has nothing yet, and they are left out where the copy is compared (`known`). A topic of which no row tells has had
one epoch, from offset 0 on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

Epoch = tuple[int, int]
"""Number, and the offset at which it began."""


def load_epochs(connection: Connection) -> dict[int, list[Epoch]]:
    """Topic id -> its epochs, oldest first."""
    found: dict[int, list[Epoch]] = {}
    for topic_id, epoch, start in connection.exec_driver_sql(
        "SELECT topic_id, epoch, start_offset FROM epochs ORDER BY topic_id, epoch"
    ):
        found.setdefault(topic_id, []).append((epoch, start))
    return found


def known(epochs: Sequence[Epoch], next_offset: int) -> list[Epoch]:
    """The epochs of which a copy that ends at `next_offset` may hold something."""
    return [epoch for epoch in epochs if epoch[1] <= next_offset]


def store_epochs(cursor: sqlite3.Cursor, topic_id: int, epochs: Iterable[Epoch], owner: str) -> None:
    """Replace a topic's list; `owner` is that of the last one, those of the others are kept."""
    rows = list(epochs)
    owners = dict(cursor.execute("SELECT epoch, owner FROM epochs WHERE topic_id = ?", (topic_id,)))
    cursor.execute("DELETE FROM epochs WHERE topic_id = ?", (topic_id,))
    cursor.executemany(
        "INSERT INTO epochs VALUES (?, ?, ?, ?)",
        [
            (topic_id, epoch, start, owner if epoch == rows[-1][0] else owners.get(epoch, ""))
            for epoch, start in rows
        ],
    )
