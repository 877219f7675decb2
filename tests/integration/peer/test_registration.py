"""A peer is known to live whatever the index has told it to do."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path

import pytest

import pubsub
from pubsub.config import IndexSettings
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.registry import EmbeddedRegistry
from tests.integration.storage.stores import copy_of, writer_held
from tests.waiting import wait_until

TTL_SECONDS = 1.0


async def test_a_peer_lives_while_it_takes_long_to_do_what_its_announcement_was_answered(tmp_path: Path):
    registry = EmbeddedRegistry("127.0.0.1:0")
    settings = IndexSettings(ttl_seconds=TTL_SECONDS)
    async with IndexServer(registry, listen=Address("127.0.0.1", 0), settings=settings) as index:
        address = str(index.address)
        async with (
            pubsub.Peer("alice", data=tmp_path / "alice", index=address) as alice,
            pubsub.Client(address) as client,
        ):
            node = alice._node
            await node.holding.take(copy_of(7, "doomed"))
            await registry.bury(7, time.time_ns() // 1000)
            async with writer_held(node.store):  # no copy can be dropped
                began = time.time()
                node.announce_soon()

                async def beats_on() -> bool:
                    (seen,) = await client.peers()
                    assert seen.alive
                    assert seen.heartbeat_at is not None
                    at = datetime.fromisoformat(seen.heartbeat_at).timestamp()
                    return at > began + 3 * TTL_SECONDS

                await wait_until(beats_on)
                assert "doomed" in node.store.topics
            await wait_until(lambda: "doomed" not in node.store.topics)


async def test_two_heartbeats_at_the_same_time_tell_the_same_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pubsub.Peer("alice", data=tmp_path, index="127.0.0.1:1") as alice:
        node, registration = alice._node, alice._registration
        clock = asyncio.get_running_loop().time() + 10
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)
        registration._load()
        node.published_messages += 50
        clock += 2.0
        # The second one in the same millisecond: uvloop's clock has none smaller.
        told = [registration._load()["messages_per_second"] for _ in range(2)]
        monkeypatch.undo()
        assert told == [25.0, 25.0]
