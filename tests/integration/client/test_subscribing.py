"""Subscriptions: nothing missed, nothing twice, across small windows and broken connections."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import pubsub
from pubsub.config import ClientSettings
from tests.integration.client.conftest import NOBODY, make_topic
from tests.proxy import FaultyProxy


async def take(messages: pubsub.Subscription, count: int) -> list[pubsub.Message]:
    return [await anext(messages) for _ in range(count)]


async def test_what_is_published_right_after_subscribing_is_seen(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", b"old")
        async with client.subscribe("a.b") as messages:
            await peer.publish("a.b", b"new")
            assert [(m.offset, m.payload) for m in await take(messages, 1)] == [(1, b"new")]


async def test_earliest_an_offset_and_a_time_are_starts(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"%d" % n for n in range(10)])
        middle = (await client.query("a.b"))[5].published_at
        await client.publish("a.b", b"last")
        for start, first in [("earliest", 0), (7, 7), (middle, 0), (middle + timedelta(microseconds=1), 10)]:
            async with client.subscribe("a.b", start=start) as messages:
                assert (await anext(messages)).offset == first


@pytest.mark.parametrize("start", ["newest", -1, True, 1.5, None, 2**70, datetime(2026, 1, 1)])
async def test_what_is_no_start_is_refused_at_once(peer: pubsub.Peer, start: object) -> None:
    async with pubsub.Client(peer.address) as client:
        with pytest.raises(pubsub.InvalidRequestError):
            client.subscribe("a.b", start=start)  # type: ignore[arg-type]


async def test_a_start_beyond_the_end_is_an_error_that_says_where_the_end_is(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", b"0")
        with pytest.raises(pubsub.OffsetOutOfRangeError, match="1 is the next") as caught:
            async with client.subscribe("a.b", start=2):
                pass
        assert caught.value.data == {"first_offset": 0, "next_offset": 1}
        async with client.subscribe("a.b", start=1) as messages:
            await client.publish("a.b", b"1")
            assert (await anext(messages)).offset == 1
        future = datetime.now(UTC) + timedelta(days=1)
        async with client.subscribe("a.b", start=future) as messages:
            await client.publish("a.b", b"2")
            assert (await anext(messages)).offset == 2


@pytest.mark.parametrize(("window", "size"), [(1, 10), (3, 1000), (1000, 100)])
async def test_every_message_comes_once_in_order_whatever_the_window(
    peer: pubsub.Peer, window: int, size: int
) -> None:
    settings = ClientSettings(window_messages=window, window_bytes=10 * size)
    count = 300 * min(window, 10)
    async with pubsub.Client(peer.address, settings=settings) as client:
        await client.publish_many("a.b", [b"x" * size] * (count // 2))
        async with client.subscribe("a.b", start="earliest") as messages:
            publishing = asyncio.create_task(client.publish_many("a.b", [b"x" * size] * (count - count // 2)))
            assert [m.offset for m in await take(messages, count)] == list(range(count))
            await publishing


async def test_a_message_larger_than_the_window_is_still_delivered(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address, settings=ClientSettings(window_bytes=100)) as client:
        await client.publish_many("a.b", [b"x" * 500_000, b"y", b"z" * 500_000])
        async with client.subscribe("a.b", start="earliest") as messages:
            assert [len(m.payload or b"") for m in await take(messages, 3)] == [500_000, 1, 500_000]


async def test_connections_cut_at_random_skip_and_repeat_nothing(peer: pubsub.Peer) -> None:
    chance = random.Random(11)
    count = 30_000
    settings = ClientSettings(window_messages=700)
    async with (
        FaultyProxy(*peer.address.split(":")) as proxy,
        pubsub.Client(peer.address, settings=settings) as client,
        pubsub.Client(peer.address) as publisher,
    ):
        await publisher.publish("a.b", b"0")
        peer._node.address = proxy.address
        async with client.subscribe("a.b", start="earliest") as messages:
            publishing = asyncio.create_task(
                publisher.publish_many("a.b", [b"%d" % n for n in range(1, count)])
            )
            seen: list[bytes | None] = []
            while len(seen) < count:
                seen += [m.payload for m in await messages.next_batch()]
                if chance.random() < 0.1:
                    proxy.cut()
            await publishing
    assert seen == [b"%d" % n for n in range(count)]
    assert proxy.connections_made > 2


async def test_a_subscription_goes_on_after_its_owner_was_restarted(tmp_path: Path) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        host, port = peer.address.split(":")
        async with pubsub.Client(peer.address) as client, client.subscribe("a.b") as messages:
            await peer.publish("a.b", b"0")
            assert (await anext(messages)).offset == 0
            await peer.publish("a.b", b"1")
            await peer.close()
            async with pubsub.Peer(
                "alice", data=tmp_path / "a", index=NOBODY, listen=f"{host}:{port}"
            ) as again:
                await again.publish("a.b", b"2")
                assert [m.offset for m in await take(messages, 2)] == [1, 2]


async def test_deleting_the_topic_ends_its_subscriptions_with_an_error(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client, client.subscribe("a.b") as messages:
        await peer.publish("a.b", b"last")
        await peer._node.drop_copy(peer._node.store.topics["a.b"].id)
        assert (await anext(messages)).payload == b"last"
        with pytest.raises(pubsub.TopicNotFoundError, match="deleted"):
            await anext(messages)


async def test_a_topic_created_anew_is_not_taken_for_the_old_one(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client, client.subscribe("a.b") as messages:
        await peer._node.drop_copy(peer._node.store.topics["a.b"].id)
        await make_topic(peer, "a.b")
        await peer.publish("a.b", b"of the new one")
        with pytest.raises(pubsub.TopicNotFoundError):
            await anext(messages)
        assert await client.publish("a.b", b"x") == 1


async def test_giving_up_reconnecting_is_an_error(tmp_path: Path) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        async with (
            pubsub.Client(peer.address) as client,
            client.subscribe("a.b", reconnect_seconds=0.3) as messages,
        ):
            await peer.close()
            with pytest.raises(pubsub.TimeoutExpiredError, match=r"0\.3 s"):
                await anext(messages)


async def test_iteration_ends_quietly_when_the_subscription_is_closed(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client, client.subscribe("a.b") as messages:

        async def read_all() -> list[pubsub.Message]:
            return [message async for message in messages]

        reading = asyncio.create_task(read_all())
        await asyncio.sleep(0)
        await messages.close()
        assert await reading == []


async def test_a_peer_that_stops_leaves_its_in_process_subscriber_reading_nothing_twice(
    peer: pubsub.Peer,
) -> None:
    async with peer.subscribe("a.b", start="earliest") as messages:
        for n in range(50):
            await peer.publish("a.b", b"%d" % n)
        assert [m.payload for m in await take(messages, 50)] == [b"%d" % n for n in range(50)]
