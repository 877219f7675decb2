"""Deleting the rows of dropped topics, and giving the space back: in portions, so that publishes do not wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sqlalchemy import Connection

from pubsub.config import MIB, StorageSettings
from pubsub.errors import PubsubError
from pubsub.storage.schema import BY_TOPIC, MANY_OF_A_TOPIC
from pubsub.storage.work import Job
from pubsub.storage.writer import Writer

log = logging.getLogger("pubsub.storage")

DROP_ROWS = 5000
DROP_BYTES = 8 * MIB
"""Messages, and their size, deleted in one transaction: publishes wait no longer than that."""
SHRINK_PAGES = 500
"""Pages given back to the file system in one transaction afterwards."""


class Purging:
    """See the module's text.

    Args:
        purged: Called with a topic's id once nothing of it is left in the file.
    """

    def __init__(self, writer: Writer, settings: StorageSettings, purged: Callable[[int], None]) -> None:
        self._writer = writer
        self._retry_seconds = settings.probe_seconds
        self._purged = purged
        self._stopped = False

    def purge(self, topic_id: int) -> None:
        """Delete a part of a dropped topic's rows, then the next part, until the topic itself can go."""
        if self._stopped:
            return

        def deleted(finished: bool | None, error: PubsubError | None) -> None:
            if error is not None:
                log.warning("deleting the rows of topic %d is tried again: %s", topic_id, error)
                asyncio.get_running_loop().call_later(self._retry_seconds, self.purge, topic_id)
            elif finished:
                self._purged(topic_id)
                self._shrink()
            else:
                self.purge(topic_id)

        self._writer.submit(Job(lambda connection: _delete_portion(connection, topic_id), deleted))

    def _shrink(self) -> None:
        """Give pages that hold nothing any more back to the file system."""
        if self._stopped:
            return

        def shrunk(more: bool | None, error: PubsubError | None) -> None:
            if more and error is None:
                self._shrink()

        self._writer.submit(Job(_shrink_portion, shrunk))

    def stop(self) -> None:
        """Submit nothing more: what is left goes on at the next start."""
        self._stopped = True


def _delete_portion(connection: Connection, topic_id: int) -> bool:
    """Returns whether nothing of the topic is left."""
    last = _end_of_portion(connection, topic_id)
    if last is not None:
        connection.exec_driver_sql(
            "DELETE FROM messages WHERE topic_id = ? AND offset <= ?", (topic_id, last)
        )
        return False
    for table, column in MANY_OF_A_TOPIC:
        deleted = connection.exec_driver_sql(
            f"DELETE FROM {table} WHERE topic_id = ? AND {column} IN "
            f"(SELECT {column} FROM {table} WHERE topic_id = ? LIMIT ?)",
            (topic_id, topic_id, DROP_ROWS),
        )
        if deleted.rowcount == DROP_ROWS:
            return False
    for table in BY_TOPIC:
        connection.exec_driver_sql(f"DELETE FROM {table} WHERE topic_id = ?", (topic_id,))
    connection.exec_driver_sql("DELETE FROM topics WHERE id = ?", (topic_id,))
    return True


def _end_of_portion(connection: Connection, topic_id: int) -> int | None:
    """The last offset that one transaction deletes of a topic, from its first message on; None without any."""
    size, last = 0, None
    for offset, size_bytes in connection.exec_driver_sql(
        "SELECT offset, length(payload) FROM messages WHERE topic_id = ? ORDER BY offset LIMIT ?",
        (topic_id, DROP_ROWS),
    ).all():
        last = offset
        size += size_bytes or 0
        if size >= DROP_BYTES:
            break
    return last


def _shrink_portion(connection: Connection) -> bool:
    """Returns whether there may be more to give back."""
    free = connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0
    for _ in range(min(free, SHRINK_PAGES)):
        # One by one: the driver would take a single step, that is one page, of a larger number too.
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)").close()
    left = connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0
    return 0 < left < free
