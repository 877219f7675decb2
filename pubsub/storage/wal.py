"""Care of the write-ahead log: how large it is, and its way into the file (a checkpoint).

Used by whoever may write to the file at the moment, see `pubsub.storage.writer`.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from pubsub.config import KIB, MIB, StorageSettings
from pubsub.storage.database import BUSY_TIMEOUT_SECONDS, CACHE_KIB
from pubsub.storage.schema import PAGE_BYTES

log = logging.getLogger("pubsub.storage")

SPARE_LOGS = 16
"""The log is given its full size in advance only where the disk has room for so many."""
LOG_CHECKPOINTS = 2
"""A log of so many times `checkpoint_bytes` is one that readers keep from being started over."""
RESTART_MILLISECONDS = 100
"""How long a checkpoint may then wait for reads under way to end; publishes wait with it."""


class WriteAheadLog:
    """The log of one file."""

    def __init__(self, path: Path, settings: StorageSettings) -> None:
        self._path = path
        self._checkpoint_bytes = settings.checkpoint_bytes
        self._connection: Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        self.unchecked_bytes = 0
        """Written to it since the last checkpoint, about."""
        self.grown = False
        """Whether it has been tried to give it its full size."""

    def open(self, connection: Connection, cursor: sqlite3.Cursor) -> None:
        """Work on this connection from now on."""
        self._connection, self._cursor = connection, cursor
        # A log that readers made larger than it ever is gets back to that size when it is started over.
        most_bytes = LOG_CHECKPOINTS * self._checkpoint_bytes
        cursor.execute(f"PRAGMA journal_size_limit = {most_bytes}").fetchall()

    @property
    def full(self) -> bool:
        """Whether a checkpoint is due."""
        return self.fills_with(0)

    def fills_with(self, added_bytes: int) -> bool:
        """Whether a checkpoint is due once so much more has been written."""
        return self.unchecked_bytes + added_bytes >= self._checkpoint_bytes

    def grow(self) -> None:
        """Give the log its full size, once there is something to write, and before it matters.

        SQLite deletes the log at the end, and a commit that makes the file longer takes nearly twice as long as one
        that writes where there was something before. A transaction that is rolled back leaves the file long: the
        caller has to roll it back.
        """
        self.grown = True
        assert self._cursor is not None
        wanted = self._checkpoint_bytes
        try:
            if (
                wanted < 4 * CACHE_KIB * KIB
                or shutil.disk_usage(self._path.parent).free < SPARE_LOGS * wanted
            ):
                return
            self._cursor.execute("BEGIN IMMEDIATE")
            self._cursor.execute("CREATE TABLE grown (x)")
            rows = [(MIB,)] * (wanted // MIB + 2 * CACHE_KIB // KIB)  # what the cache holds is not written
            self._cursor.executemany("INSERT INTO grown VALUES (zeroblob(?))", rows)
        except (OSError, sqlite3.Error) as error:
            log.info("the write-ahead log of %s grows as it is needed: %s", self._path, error)

    def checkpoint(self) -> None:
        """Copy the log into the file. One that fails is tried again when the log has filled once more."""
        assert self._connection is not None
        try:
            _, pages, _ = self._connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
            if pages * PAGE_BYTES > LOG_CHECKPOINTS * self._checkpoint_bytes:
                _start_over(self._connection)
            self._connection.rollback()
        except DBAPIError as error:
            log.warning("checkpoint of %s failed, to be tried again: %s", self._path, error.orig)
        self.unchecked_bytes = 0


def _start_over(connection: Connection) -> None:
    """Wait for the reads under way, so that the next commit writes at the beginning of the log again.

    Where reads never pause, the log would grow for ever. One that takes longer, such as a person's in sqlite3,
    is not waited for: the log grows until it has ended.
    """
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {RESTART_MILLISECONDS}").close()
    try:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(RESTART)").close()
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}").close()
