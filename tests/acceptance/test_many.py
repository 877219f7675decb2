"""Several indexes on one Redis, many peers at once, a peer that comes and goes: on real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pubsub
from tests.ports import choose_free_port
from tests.processes import Command
from tests.stopwatch import Stopwatch
from tests.waiting import wait_until


async def test_with_two_indexes_on_one_redis_nothing_stops_when_one_is_killed(
    tmp_path: Path, redis_server: str
) -> None:
    addresses = [f"127.0.0.1:{choose_free_port()}" for _ in range(2)]
    first, second = (
        Command("index", "serve", "--listen", address, "--redis", redis_server, "--ttl", "2", cwd=tmp_path)
        for address in addresses
    )
    both = ",".join(addresses)
    peer = Command("peer", "serve", "alice", "--data", "alice", cwd=tmp_path, index=both)
    async with first, second, peer, pubsub.Client(both) as client:
        await client.create_topic("load")
        async with client.subscribe("load") as messages:
            assert await client.publish("load", b"0") == 0
            await first.kill()
            assert await client.publish("load", b"1") == 1
            assert [(await anext(messages)).offset for _ in range(2)] == [0, 1]
            await client.create_topic("created.at.the.other")

            async def registered_there() -> bool:
                return [p.alive for p in await client.peers()] == [True]

            await asyncio.sleep(2.5)  # longer than the ttl: only heartbeats at the second index keep it alive
            await wait_until(registered_there)
            async with pubsub.Client(both) as late:
                assert await late.publish("load", b"2") == 2


async def test_two_hundred_peers_starting_at_once_are_registered_within_ten_seconds(
    tmp_path: Path, redis_server: str
) -> None:
    address = f"127.0.0.1:{choose_free_port()}"
    index = Command("index", "serve", "--listen", address, "--redis", redis_server, cwd=tmp_path)
    async with index, pubsub.Client(address) as client:
        peers = [pubsub.Peer(f"peer-{n}", data=tmp_path / f"{n}", index=address) for n in range(200)]
        watch = Stopwatch()
        try:
            await asyncio.gather(*(peer.open() for peer in peers))

            async def all_alive() -> bool:
                return sum(peer.alive and peer.reachable for peer in await client.peers()) == 200

            await wait_until(all_alive, timeout_seconds=60)
            assert watch.seconds < 10
        finally:
            await asyncio.gather(*(peer.close() for peer in peers))
        assert await client.peers() == []  # each said goodbye


async def test_a_killed_peer_is_offline_within_its_ttl_and_comes_back_with_its_messages(
    tmp_path: Path,
) -> None:
    address = f"127.0.0.1:{choose_free_port()}"
    registry = f"127.0.0.1:{choose_free_port()}"
    index = Command(
        "index", "serve", "--listen", address, "--registry-listen", registry, "--ttl", "2", cwd=tmp_path
    )
    peer = Command("peer", "serve", "alice", "--data", "alice", cwd=tmp_path, index=address)
    async with index, peer, pubsub.Client(address) as client:
        await client.create_topic("load")
        await client.publish_many("load", [b"0", b"1"])
        loop = asyncio.get_running_loop()
        await peer.kill()
        killed = loop.time()

        async def offline() -> bool:
            return not (await client.topic("load")).online

        await wait_until(offline)
        assert loop.time() - killed < 2 + 1
        assert [p.alive for p in await client.peers()] == [False]
        await peer.start()
        assert (await client.topic("load")).next_offset == 2
        assert await client.publish("load", b"2") == 2
        assert [m.payload for m in await client.query("load")] == [b"0", b"1", b"2"]
