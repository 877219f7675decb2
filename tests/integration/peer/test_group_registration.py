"""What the index comes to know of groups: dead letter topics, which peers make without it, and members."""

from __future__ import annotations

import time
from pathlib import Path

import pubsub
from pubsub.config import IndexSettings, StorageSettings
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.protocol.messages import CopyState
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


async def test_the_groups_of_all_topics_are_those_of_all_peers_that_answer(tmp_path: Path):
    registry = EmbeddedRegistry("127.0.0.1:0")
    async with IndexServer(registry, listen=Address("127.0.0.1", 0)) as index:
        address = str(index.address)
        async with (
            pubsub.Peer("alice", data=tmp_path / "alice", index=address) as alice,
            pubsub.Client(address) as client,
        ):
            async with pubsub.Peer("bob", data=tmp_path / "bob", index=address) as bob:
                await alice.create_topic("jobs", on="bob")
                await alice.create_topic("apples", on="alice")
                for topic, group in (("jobs", "h"), ("jobs", "g"), ("apples", "z")):
                    async with client.subscribe(topic, group=group):
                        pass
                for asked in (client, alice, bob):
                    found = [(info.topic, info.group) for info in await asked.groups()]
                    assert found == [("apples", "z"), ("jobs", "g"), ("jobs", "h")]
            assert [info.topic for info in await client.groups()] == ["apples"]


async def test_dead_letters_wait_while_another_peer_owns_the_topic_of_that_name(tmp_path: Path):
    registry = EmbeddedRegistry("127.0.0.1:0")
    async with IndexServer(registry, listen=Address("127.0.0.1", 0)) as index:
        address = str(index.address)
        quick = StorageSettings(probe_seconds=0.05)
        async with (
            pubsub.Peer("alice", data=tmp_path / "alice", index=address) as alice,
            pubsub.Peer("bob", data=tmp_path / "bob", index=address, storage_settings=quick) as bob,
            pubsub.Client(address) as client,
        ):
            await alice.create_topic("jobs", on="alice")
            await give_up(client, b"old")
            await wait_until(lambda: "jobs.dead" in alice._node.store.topics)

            async def known() -> bool:
                return {topic.topic for topic in await client.topics()} == {"jobs", "jobs.dead"}

            await wait_until(known)
            await client.delete_topic("jobs")
            await client.create_topic("jobs", on="bob")
            await give_up(client, b"new")
            await wait_until(lambda: bob._node.groups._by_topic)
            (work,) = next(iter(bob._node.groups._by_topic.values())).values()
            await wait_until(lambda: "alice owns the topic jobs.dead" in work.burying._said)
            assert "jobs.dead" not in bob._node.store.topics
            assert (await client.group("jobs", "g")).dead == 1
            assert [letter.payload for letter in await client.query("jobs.dead")] == [b"old"]
            await client.delete_topic("jobs.dead")
            await wait_until(lambda: "jobs.dead" in bob._node.store.topics)
            await wait_until(known)

            async def moved() -> bool:  # the topic is there before what goes into it
                return [letter.payload for letter in await bob.query("jobs.dead")] == [b"new"]

            await wait_until(moved)
            assert (await client.group("jobs", "g")).dead == 1


async def test_dead_letters_made_without_an_index_are_not_lost_when_their_topic_must_be_set_aside(
    tmp_path: Path,
):
    registry = EmbeddedRegistry("127.0.0.1:0")
    async with IndexServer(registry, listen=Address("127.0.0.1", 0)) as index:
        address = str(index.address)
        async with pubsub.Client(address) as client:
            async with pubsub.Peer("bob", data=tmp_path / "bob", index=address) as bob:
                await bob.create_topic("jobs", on="bob")
            async with (
                pubsub.Peer("bob", data=tmp_path / "bob", index="127.0.0.1:1") as bob,
                pubsub.Client(bob.address) as local,
            ):
                await give_up(local, b"x")
                await wait_until(lambda: "jobs.dead" in bob._node.store.topics)
            async with (
                pubsub.Peer("alice", data=tmp_path / "alice", index=address) as alice,
                pubsub.Client(alice.address) as near,
            ):
                other = CopyState(id=5, topic="jobs.dead", role="owner", owner="alice", epoch=1, created_us=1)
                await alice._node.holding.take(other)
                alice._node.announce_soon()

                async def taken() -> bool:
                    return [topic.owner for topic in await near.topics("jobs.dead")] == ["alice"]

                await wait_until(taken)
                async with pubsub.Peer("bob", data=tmp_path / "bob", index=address) as bob:
                    await wait_until(lambda: "jobs.dead" not in bob._node.store.topics)
                    assert (await client.group("jobs", "g")).dead == 1
                    assert (
                        await client.redrive_group("jobs", "g") == "1 dead letters of group g are ready again"
                    )
                    async with client.subscribe("jobs", group="g") as messages:
                        message = await anext(messages)
                        assert (message.payload, message.attempt) == (b"x", 1)
                        await message.ack()
                    assert (await client.group("jobs", "g")).dead == 0


async def give_up(client: pubsub.Client, payload: bytes) -> None:
    """Publish a message and fail to process it."""
    await client.publish("jobs", payload)
    async with client.subscribe("jobs", group="g", max_attempts=1) as messages:
        await (await anext(messages)).nack()
