"""What SQLite and the loopback interface of this machine can do, measured with nothing of ours in between.

The table that SQLite writes and reads here is the peer's, made by the peer's own schema.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from benchmarks.payloads import payloads
from benchmarks.worker import Cue
from pubsub.storage.migrate import upgrade

CHUNK_BYTES = 1 << 16

_TOPIC = 1
_INSERT = 'INSERT INTO messages (topic_id, "offset", published_at, payload) VALUES (?, ?, ?, ?)'
_SELECT = (
    "SELECT offset, published_at, key, headers, payload FROM messages "
    "WHERE topic_id = ? AND offset >= ? ORDER BY offset LIMIT ?"
)


def _database(directory: str) -> sqlite3.Connection:
    path = Path(directory) / "raw.db"
    upgrade(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _fill(
    connection: sqlite3.Connection, messages: list[bytes], rows_per_commit: int, topics: int = 1
) -> None:
    """Store messages, as many of each topic in each commit."""
    now_us = time.time_ns() // 1000
    each = rows_per_commit // topics
    for start in range(0, len(messages), rows_per_commit):
        part, first = messages[start : start + rows_per_commit], start // topics
        connection.execute("BEGIN IMMEDIATE")
        for topic in range(topics):
            rows = enumerate(part[topic * each : (topic + 1) * each], first)
            connection.executemany(_INSERT, [(_TOPIC + topic, offset, now_us, row) for offset, row in rows])
        connection.execute("COMMIT")


async def sqlite_insert(
    cue: Cue, *, directory: str, count: int, size_bytes: int, rows_per_commit: int, topics: int = 1
) -> dict[str, Any]:
    """`executemany` of rows like the peer's into its table."""
    connection = _database(directory)
    messages = payloads(0, count, size_bytes)
    await cue.ready()
    cpu, began = time.process_time(), time.perf_counter()
    _fill(connection, messages, rows_per_commit, topics)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    connection.close()
    return {"seconds": seconds, "cpu_seconds": cpu}


async def sqlite_read(
    cue: Cue, *, directory: str, count: int, size_bytes: int, rows_per_read: int
) -> dict[str, Any]:
    """Read the whole table in ranges, to rows as the sqlite3 module makes them."""
    connection = _database(directory)
    _fill(connection, payloads(0, count, size_bytes), 10_000)
    await cue.ready()
    cpu, began = time.process_time(), time.perf_counter()
    offset = 0
    while rows := connection.execute(_SELECT, (_TOPIC, offset, rows_per_read)).fetchall():
        offset = rows[-1][0] + 1
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    connection.close()
    assert offset == count
    return {"seconds": seconds, "cpu_seconds": cpu}


class _Sink(asyncio.Protocol):
    def __init__(self, expected_bytes: int) -> None:
        self.left_bytes = expected_bytes
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.left_bytes -= len(data)
        if self.left_bytes <= 0 and not self.done.done():
            self.done.set_result(time.monotonic_ns())


async def loopback_sink(cue: Cue, *, size_bytes: int) -> dict[str, Any]:
    """Take `size_bytes` from one connection and report when the last arrived."""
    loop = asyncio.get_running_loop()
    sink = _Sink(size_bytes)
    server = await loop.create_server(lambda: sink, "127.0.0.1", 0)
    await cue.ready(port=server.sockets[0].getsockname()[1])
    ended_ns = await sink.done
    server.close()
    return {"ended_ns": ended_ns}


async def loopback_source(cue: Cue, *, port: int, size_bytes: int) -> dict[str, Any]:
    """Send `size_bytes` and report when the first left."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    chunk = os.urandom(CHUNK_BYTES)
    await cue.ready()
    began_ns = time.monotonic_ns()
    left_bytes = size_bytes
    while left_bytes > 0:
        writer.write(chunk[:left_bytes])
        left_bytes -= CHUNK_BYTES
        await writer.drain()
    writer.close()
    await writer.wait_closed()
    return {"began_ns": began_ns}
