"""Reading a log: bounded chunks, in threads of their own, on connections that cannot write."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from pubsub.config import StorageSettings
from pubsub.errors import ClosedError, DamagedFileError, StorageError
from pubsub.protocol.messages import Batch
from pubsub.storage.chunks import read_chunk
from pubsub.storage.database import reader_engine
from pubsub.storage.scrub import is_damage

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

READERS = 2
"""Threads, and connections. Each read is short, so few are enough; more would only contend."""


class Reader:
    """Reads batches of any topic in the file."""

    def __init__(self, path: Path, settings: StorageSettings) -> None:
        self._path = path
        self._settings = settings
        self._engine = reader_engine(path, pool_size=READERS)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="pubsub-reader")
        self._closed = False

    async def read(self, topic_id: int, start: int, stop: int, limit: int, max_bytes: int) -> Batch | None:
        """The messages from offset `start` on, below `stop`: at most `limit`, together at most `max_bytes`.

        None when there is none. One message at least is returned, whatever its size.

        Raises:
            StorageError: the file cannot be read.
        """
        return await self._run(self._read, topic_id, start, stop, limit, max_bytes)

    async def offset_at(self, topic_id: int, at_us: int, first: int, next_offset: int) -> int:
        """The offset of the first message published at or after `at_us`, `next_offset` if there is none."""
        return await self._run(self._offset_at, topic_id, at_us, first, next_offset)

    async def run(self, function: Callable[[Connection, *Ts], T], *arguments: *Ts) -> T:
        """What `function` reads, in one of the threads, on a connection that cannot write.

        Raises:
            StorageError: the file cannot be read.
        """
        return await self._run(self._with_connection, function, *arguments)

    def _with_connection(self, function: Callable[[Connection, *Ts], T], *arguments: *Ts) -> T:
        with self._engine.connect() as connection:
            return function(connection, *arguments)

    async def _run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        if self._closed:
            raise ClosedError(f"{self._path} has been closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        except (DBAPIError, sqlite3.Error) as error:  # rows are fetched from the driver's own cursor
            reason = error.orig if isinstance(error, DBAPIError) else error
            if is_damage(reason):
                raise DamagedFileError(f"cannot read {self._path}: {reason}") from error
            raise StorageError(f"cannot read {self._path}: {reason}") from error

    def _read(self, topic_id: int, start: int, stop: int, limit: int, max_bytes: int) -> Batch | None:
        with self._engine.connect() as connection:
            found = read_chunk(connection, topic_id, start, stop, limit, max_bytes)
            return None if found is None else found[0]

    def _offset_at(self, topic_id: int, at_us: int, first: int, next_offset: int) -> int:
        """Binary search: times never fall from one message of a topic to the next."""
        with self._engine.connect() as connection:
            low, high = first, next_offset
            while low < high:
                middle = (low + high) // 2
                found = _message_from(connection, topic_id, middle, high)
                if found is None or found[1] >= at_us:
                    high = middle
                else:
                    low = found[0] + 1
            found = _message_from(connection, topic_id, low, next_offset)
            return next_offset if found is None else found[0]

    def close(self) -> None:
        """Wait for the reads under way and close. Idempotent."""
        self._closed = True
        self._threads.shutdown(wait=True)
        self._engine.dispose()


def _message_from(connection: Connection, topic_id: int, start: int, stop: int) -> tuple[int, int] | None:
    """Offset and time of the first message in [start, stop): compaction may have left holes."""
    row = connection.exec_driver_sql(
        "SELECT offset, published_at FROM messages WHERE topic_id = ? AND offset >= ? AND offset < ? "
        "ORDER BY offset LIMIT 1",
        (topic_id, start, stop),
    ).one_or_none()
    return None if row is None else (row[0], row[1])
