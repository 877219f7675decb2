"""What the index comes to know of groups: dead letter topics, which peers make without it, and members."""

from __future__ import annotations

import time
from pathlib import Path

import pubsub
from pubsub.config import IndexSettings
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.registry import EmbeddedRegistry
from tests.waiting import wait_until


async def test_a_dead_letter_topic_is_known_to_the_index_before_the_next_heartbeat(tmp_path: Path):
    registry = EmbeddedRegistry("127.0.0.1:0")
    settings = IndexSettings(ttl_seconds=600)
    async with IndexServer(registry, listen=Address("127.0.0.1", 0), settings=settings) as index:
        address = str(index.address)
        async with (
            pubsub.Peer("alice", data=tmp_path / "alice", index=address) as alice,
            pubsub.Client(address) as client,
        ):
            await alice.create_topic("jobs")
            await alice.publish("jobs", b"x")
            async with client.subscribe("jobs", group="g", max_attempts=1) as messages:
                await (await anext(messages)).nack()

            async def known() -> bool:
                return {topic.topic for topic in await client.topics()} == {"jobs", "jobs.dead"}

            await wait_until(known)
            assert (await client.topic("jobs.dead")).owner == "alice"
            (letter,) = await client.query("jobs.dead")
            assert letter.payload == b"x"
            await client.delete_topic("jobs.dead")
            assert (await client.group("jobs", "g")).dead == 0


async def test_members_are_told_to_the_registry(tmp_path: Path):
    registry = EmbeddedRegistry("127.0.0.1:0")
    settings = IndexSettings(ttl_seconds=0.5)
    async with IndexServer(registry, listen=Address("127.0.0.1", 0), settings=settings) as index:
        address = str(index.address)
        async with (
            pubsub.Peer("alice", data=tmp_path / "alice", index=address) as alice,
            pubsub.Client(address, name="worker") as client,
        ):
            await alice.create_topic("jobs")
            async with client.subscribe("jobs", group="g"):

                async def told() -> list[str]:
                    now_us = time.time_ns() // 1000
                    return list(await registry.subscribers("jobs", now_us))

                (member,) = await wait_until(told)
                assert member.startswith("g: worker 127.0.0.1:")
            await wait_until(lambda: not alice._node.subscribers())
