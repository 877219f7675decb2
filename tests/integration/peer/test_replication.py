"""Copies of a topic on several peers: what is published is on all that are in sync, and they are all the same."""

from __future__ import annotations

from pathlib import Path

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
