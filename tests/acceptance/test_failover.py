"""Real processes: a replicated topic's owner is killed, stopped past its deadline, and told to end, under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from collections import defaultdict
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

import pubsub
from tests.ports import choose_free_port
from tests.processes import Command

PEERS = ("alice", "bob", "carol")
PUBLISHERS = 8
ROUNDS = {"kill": 4, "stop": 2, "terminate": 3}
RESUME_SECONDS = {"kill": 4.0, "stop": 4.0, "terminate": 2.0}
"""With --ttl 2. Graceful: within 1 s, and time for a busy machine."""


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path / 'peer.db'}?mode=ro", uri=True)) as connection:
        sql = (
            "SELECT offset, published_at, key, headers, payload, batch FROM messages "
            "WHERE topic_id = (SELECT id FROM topics WHERE name = 'load') ORDER BY offset"
        )
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("how", ROUNDS)
async def test_nothing_committed_is_lost_doubled_or_reordered(tmp_path: Path, how: str) -> None:
    chance = random.Random(20261125)
    index_address = f"127.0.0.1:{choose_free_port()}"
    registry_address = f"127.0.0.1:{choose_free_port()}"
    index = Command(
        *("index", "serve", "--listen", index_address, "--registry-listen", registry_address, "--ttl", "2"),
        cwd=tmp_path,
    )
    peers = {
        name: Command("peer", "serve", name, "--data", name, cwd=tmp_path, index=index_address)
        for name in PEERS
    }
    stop = asyncio.Event()
    acknowledged: dict[int, list[int]] = defaultdict(list)
    seen: list[pubsub.Message] = []

    def count() -> int:
        return sum(map(len, acknowledged.values()))

    async def publish(client: pubsub.Client, publisher: int) -> None:
        number = 0
        while not stop.is_set():
            acknowledged[publisher].append(await client.publish("load", b"%d:%d" % (publisher, number)))
            number += 1

    async def until(condition: object, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():  # type: ignore[operator]
                await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(index)
        for peer in peers.values():
            await stack.enter_async_context(peer)
        client = await stack.enter_async_context(pubsub.Client(index_address, timeout_seconds=60))
        reader_client = await stack.enter_async_context(pubsub.Client(index_address, timeout_seconds=60))
        await client.create_topic("load", policy={"replicas": 3, "replica_lag_seconds": 2})

        async def all_in_sync() -> bool:
            return len((await client.topic("load")).in_sync) == 3

        await until(all_in_sync, 20)
        messages = await stack.enter_async_context(reader_client.subscribe("load", start="earliest"))

        async def read() -> None:
            while True:
                seen.extend(await messages.next_batch())

        reader = asyncio.create_task(read())
        publishers = [asyncio.create_task(publish(client, n)) for n in range(PUBLISHERS)]
        pauses = []
        for _ in range(ROUNDS[how]):
            await asyncio.sleep(chance.uniform(0.3, 1.0))
            owner = (await client.topic("load")).owner
            peer = peers[owner]
            before, began = count(), asyncio.get_running_loop().time()
            if how == "kill":
                await peer.kill()
            elif how == "stop":
                os.kill(peer.pid, signal.SIGSTOP)
            else:
                peer.signal(signal.SIGTERM)
                await peer.ended()

            async def resumed(before: int = before) -> bool:
                return count() > before + 2 * PUBLISHERS

            await until(resumed, 30)
            pauses.append(asyncio.get_running_loop().time() - began)
            if how == "stop":
                await asyncio.sleep(0.5)
                os.kill(peer.pid, signal.SIGCONT)
            else:
                await peer.start()
            await until(all_in_sync, 30)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*publishers), 60)
        last = max(offset for offsets in acknowledged.values() for offset in offsets)

        async def read_all() -> bool:
            return bool(seen) and seen[-1].offset >= last

        await until(read_all, 30)
        reader.cancel()

        async def equal() -> bool:
            found = [rows(tmp_path / name) for name in PEERS]
            return len(found[0]) > last and all(other == found[0] for other in found)

        await until(equal, 30)

    print(f"{how}: pauses {pauses}, {count()} acknowledged")
    assert [message.offset for message in seen] == list(range(len(seen)))
    by_publisher: dict[int, list[int]] = defaultdict(list)
    offsets: dict[tuple[int, int], int] = {}
    for message in seen:
        publisher, number = map(int, (message.payload or b"").split(b":"))
        by_publisher[publisher].append(number)
        offsets[publisher, number] = message.offset
    for publisher, told in acknowledged.items():
        assert by_publisher[publisher] == list(range(len(by_publisher[publisher])))
        assert [offsets[publisher, number] for number in range(len(told))] == told
    assert max(pauses) < RESUME_SECONDS[how] + 2.0  # the machine may be busy with other tests
