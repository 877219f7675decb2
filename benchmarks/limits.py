"""The physical limits of the machine, measured with nothing of ours in between: disk, SQLite, loopback.

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

BLOCK_BYTES = 4096
REUSED_BLOCKS = 256
CHUNK_BYTES = 1 << 16

_TOPIC = 1
_INSERT = 'INSERT INTO messages (topic_id, "offset", published_at, payload) VALUES (?, ?, ?, ?)'
_SELECT = (
    "SELECT offset, published_at, key, headers, payload FROM messages "
    "WHERE topic_id = ? AND offset >= ? ORDER BY offset LIMIT ?"
)


class BareWrites:
    """4 KiB written and synced again and again: at the end of a growing file, and over blocks that are there.

    The first is what a new log does, with the file's size to be made durable too; the second the least that any
    durable write costs.
    """

    def __init__(self, directory: str) -> None:
        self._block = os.urandom(BLOCK_BYTES)
        self._growing = os.open(Path(directory) / "growing", os.O_RDWR | os.O_CREAT, 0o600)
        self._within = os.open(Path(directory) / "within", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._within, self._block * REUSED_BLOCKS, 0)
        os.fsync(self._within)
        self._written = 0
        self.growing: list[float] = []
        """Seconds that each took."""
        self.within: list[float] = []

    def burst(self, count: int) -> None:
        """Do `count` of either."""
        numbers = range(self._written, self._written + count)
        self._written += count
        self.growing += [self._write(self._growing, number) for number in numbers]
        self.within += [self._write(self._within, number % REUSED_BLOCKS) for number in numbers]

    def _write(self, descriptor: int, block: int) -> float:
        began = time.perf_counter()
        os.pwrite(descriptor, self._block, block * BLOCK_BYTES)
        os.fdatasync(descriptor)
        return time.perf_counter() - began

    def close(self) -> None:
        os.close(self._growing)
        os.close(self._within)


async def write_and_sync(cue: Cue, *, directory: str, count: int) -> dict[str, Any]:
    """Bare writes, nothing else."""
    writes = BareWrites(directory)
    await cue.ready()
    writes.burst(count)
    writes.close()
    return {"growing": writes.growing, "within": writes.within}


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
    _fill(connection, payloads(0, count, size_bytes), 1000)
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
