"""A request that took effect, and whose answer was lost, is not a failure when it is sent again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import pubsub
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.registry import EmbeddedRegistry
from tests.proxy import FaultyProxy
from tests.waiting import wait_until


async def test_deleting_a_topic(tmp_path: Path) -> None:
    registry = EmbeddedRegistry("127.0.0.1:0")
    async with (
        IndexServer(registry, listen=Address("127.0.0.1", 0)) as index,
        pubsub.Peer("alice", data=tmp_path / "alice", index=str(index.address)) as peer,
        FaultyProxy(*str(index.address).split(":")) as proxy,
        pubsub.Client(proxy.address) as client,
    ):
        await client.create_topic("a.b")
        proxy.swallow_answers = True
        deleting = asyncio.create_task(client.delete_topic("a.b"))
        await wait_until(lambda: "a.b" not in peer._node.store.topics)
        proxy.swallow_answers = False
        proxy.cut()
        assert "deleted" in await deleting
        with pytest.raises(pubsub.TopicNotFoundError):
            await client.delete_topic("a.b")


@pytest.mark.parametrize("what", ["group", "subscription"])
async def test_deleting_a_group_or_a_subscription(peer: pubsub.Peer, what: str) -> None:
    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        async with client.subscribe("a.b", group="x"), client.subscribe("a.b", durable="x"):
            pass
        topic = peer._node.store.topics["a.b"]
        peer._node.address = proxy.address
        client._routes.forget("a.b")
        await client.groups("a.b")
        delete = client.delete_group if what == "group" else client.delete_subscription

        def is_gone() -> bool:
            if what == "group":
                return not peer._node.groups.has_groups(topic)
            return peer._node.store.cursors.find(topic.id, "x") is None

        proxy.swallow_answers = True
        deleting = asyncio.create_task(delete("a.b", "x"))
        await wait_until(is_gone)
        proxy.swallow_answers = False
        proxy.cut()
        assert "deleted" in await deleting
        with pytest.raises((pubsub.GroupNotFoundError, pubsub.SubscriptionNotFoundError)):
            await delete("a.b", "x")
