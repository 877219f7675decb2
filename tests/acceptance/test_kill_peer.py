"""kill -9 of a peer under load: what was acknowledged is there once, in each publisher's order."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from pathlib import Path

import pytest

import pubsub
from tests.ports import choose_free_port
from tests.processes import Command

KILLS = 20
PUBLISHERS = 20


async def test_acknowledged_messages_survive_kills_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(20261124)
    index_address = f"127.0.0.1:{choose_free_port()}"
    registry_address = f"127.0.0.1:{choose_free_port()}"
    index = Command(
        "index",
        "serve",
        "--listen",
        index_address,
        "--registry-listen",
        registry_address,
        "--ttl",
        "1",
        cwd=tmp_path,
    )
    peer = Command("peer", "serve", "alice", "--data", "alice", cwd=tmp_path, index=index_address)
    stop = asyncio.Event()
    acknowledged: dict[int, list[tuple[int, int]]] = defaultdict(list)

    async def publish(client: pubsub.Client, publisher: int) -> None:
        number = 0
        while not stop.is_set():
            offset = await client.publish("load", b"%d:%d" % (publisher, number), key=str(publisher))
            acknowledged[publisher].append((number, offset))
            number += 1

    async with index, peer, pubsub.Client(index_address, timeout_seconds=60) as client:
        await client.create_topic("load")
        seen: list[pubsub.Message] = []
        async with client.subscribe("load", start="earliest") as messages:

            async def read() -> None:
                while True:
                    seen.extend(await messages.next_batch())

            reader = asyncio.create_task(read())
            publishers = [asyncio.create_task(publish(client, n)) for n in range(PUBLISHERS)]
            for _ in range(KILLS):
                before = sum(map(len, acknowledged.values()))
                await asyncio.sleep(chance.uniform(0.02, 0.3))
                await peer.kill()
                await peer.start()
                async with asyncio.timeout(30):  # publishing resumes each time
                    while sum(map(len, acknowledged.values())) <= before + PUBLISHERS:
                        await asyncio.sleep(0.01)
            stop.set()
            await asyncio.gather(*publishers)
            last = max(offset for offsets in acknowledged.values() for _, offset in offsets)
            async with asyncio.timeout(30):
                while not seen or seen[-1].offset < last:
                    await asyncio.sleep(0.01)
            reader.cancel()
        stored = await client.query("load", limit=10**7)

    assert [message.offset for message in stored] == list(range(len(stored)))
    assert seen == stored[: len(seen)]  # the subscriber missed nothing and saw nothing twice
    assert len({message.payload for message in stored}) == len(stored)
    by_publisher: dict[int, list[int]] = defaultdict(list)
    for message in stored:
        publisher, number = map(int, (message.payload or b"").split(b":"))
        by_publisher[publisher].append(number)
    for publisher, numbers in by_publisher.items():
        assert numbers == list(range(len(numbers))), f"publisher {publisher} out of order"
    for publisher, offsets in acknowledged.items():
        for number, offset in offsets:
            assert stored[offset].payload == b"%d:%d" % (publisher, number)


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "redis"])
async def test_a_wiped_registry_is_whole_again_within_one_heartbeat_and_nobody_notices(
    tmp_path: Path, embedded: bool, request: pytest.FixtureRequest
) -> None:
    import redis.asyncio

    index_address = f"127.0.0.1:{choose_free_port()}"
    if embedded:
        registry = f"127.0.0.1:{choose_free_port()}"
        options = ("--registry-listen", registry)
        url = f"redis://{registry}"
    else:
        url = request.getfixturevalue("redis_server")
        options = ("--redis", url)
    index = Command("index", "serve", "--listen", index_address, *options, "--ttl", "3", cwd=tmp_path)
    peer = Command("peer", "serve", "alice", "--data", "alice", cwd=tmp_path, index=index_address)
    async with (
        index,
        peer,
        pubsub.Client(index_address) as client,
        redis.asyncio.from_url(url) as registry_client,
    ):
        await client.create_topic("load")
        offsets: list[int] = []
        stop = asyncio.Event()

        async def publish() -> None:
            while not stop.is_set():
                offsets.append(await client.publish("load", b"x"))

        async with client.subscribe("load", start="earliest") as messages:
            publishing = asyncio.create_task(publish())
            before = sorted(await registry_client.keys("*"))
            assert b"pubsub:topic:load" in before
            await registry_client.flushall()
            async with asyncio.timeout(2.0):  # a heartbeat comes each second
                while not set(before) <= set(await registry_client.keys("*")):
                    await asyncio.sleep(0.02)
            stop.set()
            await publishing
            for expected in range(len(offsets)):
                assert (await anext(messages)).offset == expected
        assert offsets == list(range(len(offsets)))
        assert (await client.topic("load")).online
