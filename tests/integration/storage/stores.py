"""Working with real stores: append and wait, hold the writer back, look into the file beside it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from pubsub.errors import PubsubError
from pubsub.protocol.messages import CopyState
from pubsub.storage.store import Append, Store
from pubsub.storage.topic import Topic
from pubsub.storage.work import Job

WAL_HEADER, FRAME_HEADER = struct.Struct(">8I"), struct.Struct(">6I")


def copy_of(topic_id: int, name: str, **fields: Any) -> CopyState:
    return CopyState(
        id=topic_id, topic=name, role="owner", owner="alice", epoch=fields.pop("epoch", 1), **fields
    )


def submit(
    store: Store,
    topic: Topic,
    payloads: list[bytes],
    *,
    producer: int = 0,
    sequence: int = 0,
    epoch: int | None = None,
    keys: list[str | None] | None = None,
    headers: list[str | None] | None = None,
) -> asyncio.Future[tuple[int, bool]]:
    """Append; the future gets the first offset and whether it was stored before, once the store answers."""
    answered: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()

    def done(_: Append, first_offset: int, duplicate: bool, error: PubsubError | None) -> None:
        if answered.done():
            return
        if error is None:
            answered.set_result((first_offset, duplicate))
        else:
            answered.set_exception(error)

    size_bytes = sum(len(payload or b"") for payload in payloads)
    store.append(
        Append(
            topic.id,
            topic.epoch if epoch is None else epoch,
            producer,
            sequence,
            keys,
            headers,
            list(payloads),
            size_bytes,
            done,
        )
    )
    return answered


async def append(store: Store, topic: Topic, payloads: list[bytes], **fields: Any) -> int:
    """Append and return the first offset."""
    return (await submit(store, topic, payloads, **fields))[0]


async def read_all(store: Store, topic: Topic) -> list[bytes | None]:
    """Every payload, read chunk by chunk; the offsets are checked to be dense."""
    payloads: list[bytes | None] = []
    while (batch := await store.read(topic, len(payloads), 1000)) is not None:
        assert (batch.first_offset, batch.offsets) == (len(payloads), None)
        payloads += batch.payloads
    return payloads


@contextlib.asynccontextmanager
async def writer_held(store: Store) -> AsyncIterator[None]:
    """What is submitted inside waits for the end of the block: it arrives while, as it were, a commit runs."""
    busy, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(_: Any) -> None:
        loop.call_soon_threadsafe(busy.set)
        gate.wait()

    store._writer.submit(Job(wait, lambda result, error: None))
    await busy.wait()
    try:
        yield
    finally:
        gate.set()


@contextlib.contextmanager
def beside(path: Path, mode: str = "ro") -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's."""
    connection = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def ask(path: Path, query: str, *values: Any) -> Any:
    """One value, as another connection sees it."""
    with beside(path) as connection:
        return connection.execute(query, values).fetchone()[0]


def change(path: Path, *statements: str) -> None:
    """Change a file that no store has open."""
    with beside(path, "rw") as connection:
        for statement in statements:
            connection.execute(statement)


def commits_in_log(path: Path) -> int:
    """How many transactions the write-ahead log holds: frames that end one carry the size of the file."""
    log = path.with_name(path.name + "-wal").read_bytes()
    _, _, page_bytes, _, *salts, _, _ = WAL_HEADER.unpack_from(log)
    count = 0
    for start in range(WAL_HEADER.size, len(log), FRAME_HEADER.size + page_bytes):
        _, size_after_commit, *rest = FRAME_HEADER.unpack_from(log, start)
        count += rest[:2] == salts and size_after_commit > 0
    return count


def fingerprint(directory: Path) -> dict[str, str]:
    """What every file of a data directory holds, but for what a lock and readers write."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.iterdir()
        if file.name not in ("peer.lock", "peer.db-shm")
        and not (file.name == "peer.db-wal" and not file.stat().st_size)
    }
