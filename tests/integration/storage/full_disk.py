"""A disk that fills up under a peer and has room again later: the story, for any way to fill a disk.

Run as a program it tells it of files that may not grow (RLIMIT_FSIZE), which concerns a whole process:
`python -m tests.integration.storage.full_disk DIRECTORY`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from pubsub.config import KIB, StorageSettings
from pubsub.errors import PubsubError, ReadOnlyError
from pubsub.storage.store import Store
from tests.integration.storage.stores import append, copy_of, read_all, submit, writer_held
from tests.waiting import wait_until

PRODUCER = 5
CHUNK = 32 * KIB
LIMIT = 256 * KIB


async def tell(directory: Path, make_full: Callable[[], None], make_room: Callable[[], None]) -> None:
    store = await Store.open(directory, "alice", StorageSettings(probe_seconds=0.05))
    topic, other, dropped = [await store.create(copy_of(n, f"t{n}")) for n in (1, 2, 3)]
    acknowledged: list[bytes | None] = []
    for number in range(3):
        await append(store, topic, [b"%d" % number], producer=PRODUCER, sequence=number)
        acknowledged.append(b"%d" % number)
    await append(store, dropped, [b"x"] * 3)
    delivered: list[int] = []
    store.on_append = lambda topic, appended: delivered.append(appended.first_offset)

    make_full()
    # Message after message until one does not fit. It is not acknowledged, the fault says why, reads go on.
    refused: ReadOnlyError | None = None
    while refused is None:
        payload = bytes([len(acknowledged)]) * CHUNK
        try:
            await append(store, topic, [payload], producer=PRODUCER, sequence=len(acknowledged))
            acknowledged.append(payload)
        except ReadOnlyError as error:
            refused = error
    assert store.fault == refused.message
    assert str(store.path) in refused.message
    assert "make room" in refused.message
    assert refused.retriable
    assert await read_all(store, topic) == acknowledged
    assert topic.next_offset == len(acknowledged)
    assert store.queued_bytes == 0

    # A group fails as a whole, whatever is in it; one larger than SQLite's cache fails before its commit.
    for size in (LIMIT, 3 * 1024 * KIB):
        async with writer_held(store):
            group = [submit(store, t, [bytes(size)]) for t in (other, topic, other)]
        for answer in await asyncio.gather(*group, return_exceptions=True):
            assert isinstance(answer, ReadOnlyError), answer
    assert store.fault is not None
    assert await read_all(store, other) == []
    assert len(delivered) == len(acknowledged) - 3

    try:  # to delete may need room too: it is done, or refused
        await store.drop(dropped)
    except ReadOnlyError:
        assert "t3" in store.topics

    make_room()
    await wait_until(lambda: store.fault is None, description="the peer finds out that there is room again")
    if "t3" in store.topics:
        await store.drop(dropped)
    await wait_until(lambda: 3 not in store.by_id, description="the deletion goes on")

    # The next group works, and what was refused is stored once when it is sent again.
    retry = bytes([len(acknowledged)]) * CHUNK
    sequence = len(acknowledged)
    async with writer_held(store):
        again = [submit(store, topic, [retry], producer=PRODUCER, sequence=sequence) for _ in range(2)]
        unrelated = submit(store, other, [b"y"])
    assert await asyncio.gather(*again) == [(sequence, False), (sequence, True)]
    assert await unrelated == (0, False)
    await store.close()

    store = await Store.open(directory, "alice")
    assert await read_all(store, store.topic("t1")) == [*acknowledged, retry]
    assert await read_all(store, store.topic("t2")) == [b"y"]
    await store.close()


def main(directory: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        asyncio.run(
            tell(
                directory,
                lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard)),
                lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
            )
        )
    except PubsubError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
