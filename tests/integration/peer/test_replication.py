"""Copies of a topic on several peers: what is published is on all that are in sync, and they are all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import pubsub
from pubsub.errors import InvalidRequestError
from pubsub.model import Offset
from tests.integration.peer.replicated import PATIENCE_SECONDS, cluster
from tests.waiting import wait_until

THREE = ("alice", "bob", "carol")


async def test_what_is_published_is_on_three_copies_which_are_equal(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await site.client()
        await client.create_topic("t", policy={"replicas": 3})
        await site.in_sync("t", *THREE)
        offsets = await client.publish_many("t", [b"%d" % n for n in range(5000)])
        assert list(offsets) == list(range(5000))
        assert await client.publish("t", b"one", key="k", headers={"a": "b"}) == 5000
        rows = await site.equal("t")
        assert [row[4] for row in rows] == [*(b"%d" % n for n in range(5000)), b"one"]
        assert {site.held(name, "t").epoch for name in THREE} == {1}
        await wait_until(lambda: {site.held(name, "t").committed for name in THREE} == {5001})
        messages = await client.query("t", start=0, limit=6000)
        assert len(messages) == 5001


async def test_subscribers_get_what_is_committed(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await site.client()
        await client.create_topic("t", policy={"replicas": 3})
        await site.in_sync("t", *THREE)
        async with client.subscribe("t", start="earliest") as messages:
            for number in range(20):
                await client.publish("t", b"%d" % number)
                assert (await anext(messages)).payload == b"%d" % number


async def test_heartbeats_tell_of_subscriptions_and_not_of_copies(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await site.client()
        for topic in ("t", "u"):
            await client.create_topic(topic, on="alice", policy={"replicas": 3})
            await site.in_sync(topic, *THREE)
        alice = site.peers["alice"]._node
        assert alice.subscribers() == {}
        async with client.subscribe("t"):
            await wait_until(lambda: [len(names) for names in alice.subscribers().values()] == [1])
            assert [*alice.subscribers()] == ["t"]
        await wait_until(lambda: alice.subscribers() == {})


async def test_the_result_says_who_has_it(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await site.client()
        await client.create_topic("t", policy={"replicas": 3})
        await client.create_topic("alone", on="alice")
        await site.in_sync("t", *THREE)
        offset = await client.publish("t", b"a")
        assert offset == 0
        assert isinstance(offset, Offset)
        assert set(offset.in_sync) == set(THREE)
        offsets = await client.publish_many("t", [b"b"] * 3000, acks="all")
        assert list(offsets) == list(range(1, 3001))
        assert set(offsets.in_sync or ()) == set(THREE)
        owner = site.owner("t")
        one = await client.publish("t", b"c", acks="owner")
        assert one == 3001
        assert isinstance(one, Offset)
        assert one.in_sync[0] == owner
        whole = await client.publish_many("t", [b"d", b"e"], atomic=True)
        assert set(whole.in_sync or ()) == set(THREE)
        assert type(await client.publish("alone", b"x", acks="all")) is int
        assert (await client.publish_many("alone", [b"x"])).in_sync is None
        for wrong in ("none", 1, b"all"):
            with pytest.raises(InvalidRequestError, match='acks is "owner" or "all"'):
                await client.publish("t", b"x", acks=wrong)  # type: ignore[arg-type]


async def test_a_peer_publishes_to_its_own_replicated_topic(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        alice = site.peers["alice"]
        await alice.create_topic("t", policy={"replicas": 3})
        await site.in_sync("t", *THREE)
        offset = await alice.publish("t", b"a")
        assert isinstance(offset, Offset)
        assert set(offset.in_sync) == set(THREE)
        assert await alice.publish("t", b"b", acks="owner") == 1
        assert (await site.peers["bob"].publish("t", b"c")) == 2


async def test_what_retention_takes_away_goes_from_all_copies_and_a_new_one_begins_there(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await site.client()
        await client.create_topic("t", on="alice", policy={"replicas": 2, "max_messages": 100})
        await wait_until(lambda: len(site.held("alice", "t").in_sync) == 2, PATIENCE_SECONDS)
        for _ in range(5):
            await client.publish_many("t", [b"x"] * 500)
        await wait_until(lambda: site.held("alice", "t").first_offset == 2400)
        await wait_until(lambda: {site.held(name, "t").first_offset for name in site.holders("t")} == {2400})
        missing = next(name for name in THREE if name not in site.holders("t"))
        await client.change_replicas("t", add=[missing])
        await site.in_sync("t", *THREE)
        assert [row[0] for row in await site.equal("t")] == list(range(2400, 2500))
        await site.kill("alice")
        assert await client.publish("t", b"y") == 2500


async def test_a_client_that_goes_through_the_index_publishes_to_replicated_topics(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await site.client()
        await client.create_topic("t", on="alice", policy={"replicas": 3})
        await site.in_sync("t", *THREE)
        async with pubsub.Client(site.address, relay=True) as relayed:
            offset = await relayed.publish("t", b"a", acks="all")
            assert isinstance(offset, Offset)
            assert set(offset.in_sync) == set(THREE)
            await site.kill("alice")
            assert await relayed.publish("t", b"b") == 1


async def test_a_first_copy_comes_in_while_publishing_never_pauses(tmp_path: Path):
    async with cluster(tmp_path, "alice", "bob") as site:
        client = await site.client()
        await client.create_topic("t", on="alice")
        stop = asyncio.Event()

        async def publish() -> None:
            while not stop.is_set():
                await client.publish("t", b"x" * 100)

        publishing = [asyncio.create_task(publish(), name=f"publisher {n}") for n in range(50)]
        try:
            await client.change_replicas("t", add=["bob"])
            async with asyncio.timeout(15):
                await site.in_sync("t", "alice", "bob")
        finally:
            stop.set()
        await asyncio.gather(*publishing)


async def test_a_replica_that_is_removed_and_added_again_at_once_has_a_copy_again(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await site.client()
        await client.create_topic("t", on="alice")
        await client.publish_many("t", [b"x" * 100] * 100_000)
        await client.change_replicas("t", add=["bob"])
        await site.in_sync("t", "alice", "bob")
        await client.change_replicas("t", remove=["bob"])
        await wait_until(lambda: site.holders("t") == ["alice"], PATIENCE_SECONDS)
        await client.change_replicas("t", add=["bob"])  # which still deletes 100,000 rows
        await site.in_sync("t", "alice", "bob")
        await site.equal("t")


async def test_a_topic_gains_and_loses_replicas_while_it_is_published_to(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await site.client()
        await client.create_topic("t", on="alice")
        count = 0
        stop = asyncio.Event()

        async def publish() -> None:
            nonlocal count
            while not stop.is_set():
                assert await client.publish("t", b"%d" % count) == count
                count += 1

        publishing = asyncio.create_task(publish(), name="publisher")
        await client.change_replicas("t", add=["bob"])
        await site.in_sync("t", "alice", "bob")
        await client.change_replicas("t", add=["carol"])
        await site.in_sync("t", *THREE)
        await client.change_replicas("t", remove=["alice"])
        await wait_until(
            lambda: site.owner("t") in ("bob", "carol") and site.holders("t") != list(THREE), PATIENCE_SECONDS
        )
        await client.change_replicas("t", remove=[n for n in ("bob", "carol") if n != site.owner("t")])
        await wait_until(lambda: len(site.holders("t")) == 1, PATIENCE_SECONDS)
        before = count
        await wait_until(lambda: count > before + 20)
        stop.set()
        await publishing
        (rest,) = site.holders("t")
        assert [row[4] for row in await site.rows(rest, "t")] == [b"%d" % n for n in range(count)]
        assert site.held(rest, "t").committed == count
