"""Taking a damaged copy back to where it can be believed, so that it follows its owner anew from there.

In portions, from the end: after each the copy is a shorter one, whatever happens then. That it has lost something is
written down first, so that it is not chosen meanwhile. What is taken off was committed, and others have it: it is not
kept as orphans.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, cast

from sqlalchemy import Connection

from pubsub.core.epochs import reached
from pubsub.storage.copying import cut
from pubsub.storage.topic import Topic

if TYPE_CHECKING:
    from pubsub.storage.store import Store

PORTION_ROWS = 5000


async def take_back(store: Store, topic: Topic, offset: int) -> int:
    """Take everything from `offset` on off a copy that follows; returns how many messages that were.

    Raises:
        NotOwnerError: it is the owner's, or in another epoch, by now.
        StorageError: the file is too damaged for it, or cannot be written to.
    """
    await store.copies.set_unsound(topic)
    removed = 0
    while topic.next_offset > offset:

        def change(connection: Connection, epoch: int = topic.epoch) -> tuple[int, tuple[int, ...]]:
            cursor = cast(sqlite3.Cursor, connection.connection.cursor())
            try:
                start = max(offset, _portion(cursor, topic.id))
                count = cut(cursor, topic.id, start, epoch, topic.owner, keep=False)
                sql = "SELECT first_offset, next_offset, committed, messages, bytes FROM topics WHERE id = ?"
                return count, cursor.execute(sql, (topic.id,)).fetchone()
            finally:
                cursor.close()

        count, bounds = await store.change_file(change)
        removed += count
        topic.first_offset, topic.next_offset, topic.committed, topic.messages, topic.size_bytes = bounds
        topic.epochs = reached(topic.epochs, topic.next_offset)
    return removed


def _portion(cursor: sqlite3.Cursor, topic_id: int) -> int:
    """The offset from which on there are so many messages; 0: there are fewer."""
    sql = "SELECT offset FROM messages WHERE topic_id = ? ORDER BY offset DESC LIMIT 1 OFFSET ?"
    row = cursor.execute(sql, (topic_id, PORTION_ROWS)).fetchone()
    return 0 if row is None else int(row[0])
