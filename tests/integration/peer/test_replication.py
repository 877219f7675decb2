"""Copies of a topic on several peers: what is published is on all that are in sync, and they are all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from pubsub.errors import InvalidRequestError
from pubsub.model import Offset
from tests.integration.peer.replicated import cluster
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
