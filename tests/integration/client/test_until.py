"""Where reading ends: `until` an offset or a time, for subscriptions and queries."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import pubsub
from pubsub.config import ClientSettings
from tests.integration.client.conftest import make_topic
from tests.proxy import FaultyProxy


async def read_all(messages: pubsub.Subscription) -> list[int]:
    async with asyncio.timeout(20):
        return [message.offset async for message in messages]


async def publish_apart(peer: pubsub.Peer, count: int) -> list[datetime]:
    """Messages of different times."""
    for _ in range(count):
        await peer.publish("a.b", b"x")
    return [message.published_at for message in await peer.query("a.b", limit=10_000)]


@pytest.mark.parametrize("window", [1, 3, 10_000])
@pytest.mark.parametrize("until", [0, 1, 7, 10])
async def test_iteration_ends_quietly_before_an_offset(peer: pubsub.Peer, until: int, window: int) -> None:
    async with pubsub.Client(peer.address, settings=ClientSettings(window_messages=window)) as client:
        await client.publish_many("a.b", [b"x"] * 10)
        async with client.subscribe("a.b", start="earliest", until=until) as messages:
            assert await read_all(messages) == list(range(until))
            assert await read_all(messages) == []  # and stays at its end


async def test_an_end_that_is_not_there_yet_is_waited_for_and_what_comes_in_one_commit_is_cut(
    peer: pubsub.Peer,
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 3)
        async with client.subscribe("a.b", start=1, until=8) as messages:
            reading = asyncio.create_task(read_all(messages))
            await client.publish_many("a.b", [b"x"] * 2)
            assert not reading.done()
            await client.publish_many("a.b", [b"x"] * 20)
            assert await reading == list(range(1, 8))
        assert not peer._node.deliveries.count()  # the owner has ended it by itself


async def test_a_start_beyond_the_end_gives_nothing(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 10)
        for start in (5, 9, "latest"):
            async with client.subscribe("a.b", start=start, until=5) as messages:
                assert await read_all(messages) == []
        with pytest.raises(pubsub.OffsetOutOfRangeError):
            async with client.subscribe("a.b", start=11, until=5):
                pass


@pytest.mark.parametrize("window", [1, 10_000])
async def test_a_time_in_the_past_ends_before_the_first_message_from_then(
    peer: pubsub.Peer, window: int
) -> None:
    times = await publish_apart(peer, 10)
    async with pubsub.Client(peer.address, settings=ClientSettings(window_messages=window)) as client:
        for until, expected in [
            (times[4], 4),
            (times[4] + timedelta(microseconds=1), 5),
            (times[0] - timedelta(days=1), 0),
            (datetime(1960, 1, 1, tzinfo=UTC), 0),
            (datetime.now(UTC), 10),
        ]:
            async with client.subscribe("a.b", start="earliest", until=until) as messages:
                assert await read_all(messages) == list(range(expected))


async def test_a_time_ahead_ends_it_when_it_has_come_also_without_messages(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        until = datetime.now(UTC) + timedelta(seconds=0.4)
        async with client.subscribe("a.b", until=until) as messages:
            await client.publish_many("a.b", [b"x"] * 3)
            assert await read_all(messages) == [0, 1, 2]
        assert datetime.now(UTC) >= until


async def test_a_stream_of_messages_is_cut_exactly_at_a_time_ahead(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        until = datetime.now(UTC) + timedelta(seconds=0.4)
        async with client.subscribe("a.b", until=until) as messages:
            reading = asyncio.create_task(read_all(messages))
            while datetime.now(UTC) < until + timedelta(seconds=0.1):
                await client.publish("a.b", b"x")
            seen = await reading
        stored = await client.query("a.b", limit=100_000)
    assert seen == [message.offset for message in stored if message.published_at < until]


async def test_a_far_end_is_no_end(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        for until in (2**63 - 1, datetime(9999, 12, 31, tzinfo=UTC)):
            async with client.subscribe("a.b", until=until) as messages:
                await client.publish("a.b", b"x")
                assert (await anext(messages)).payload == b"x"


async def test_the_end_is_found_over_broken_connections(peer: pubsub.Peer) -> None:
    async with (
        FaultyProxy(*peer.address.split(":")) as proxy,
        pubsub.Client(peer.address, settings=ClientSettings(window_messages=100)) as client,
    ):
        await client.publish_many("a.b", [b"x"] * 3000)
        peer._node.address = proxy.address
        async with client.subscribe("a.b", start="earliest", until=2500) as messages:
            seen = []
            async for message in messages:
                seen.append(message.offset)
                if len(seen) % 500 == 0:
                    proxy.cut()
        assert seen == list(range(2500))


async def test_holes_at_the_end_do_not_keep_it_open(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 20)
        topic = peer._node.store.topics["a.b"]
        await peer._node.store.change_file(
            lambda c: c.exec_driver_sql(
                "DELETE FROM messages WHERE topic_id = ? AND offset BETWEEN 5 AND 12", (topic.id,)
            ).close()
        )
        for until, expected in [(8, range(5)), (13, range(5)), (14, [*range(5), 13])]:
            async with client.subscribe("a.b", start="earliest", until=until) as messages:
                assert await read_all(messages) == list(expected)


async def test_a_durable_replay_commits_all_of_it_and_is_over_the_next_time(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 10)
        for expected in ([0, 1, 2, 3], []):
            async with client.subscribe("a.b", durable="dash", start="earliest", until=4) as messages:
                assert await read_all(messages) == expected
        assert (await client.subscription("a.b", "dash")).position == 4


async def test_the_end_is_committed_also_when_the_connection_broke_after_it(peer: pubsub.Peer) -> None:
    async with (
        FaultyProxy(*peer.address.split(":")) as proxy,
        pubsub.Client(peer.address) as client,
    ):
        await client.publish_many("a.b", [b"x"] * 10)
        own_address, peer._node.address = peer._node.address, proxy.address
        async with client.subscribe("a.b", durable="dash", start="earliest", until=4) as messages:
            assert await read_all(messages) == [0, 1, 2, 3]
            peer._node.address = own_address
            proxy.cut()
            await messages.commit()
        assert (await client.subscription("a.b", "dash")).position == 4


@pytest.mark.parametrize("until", ["latest", "earliest", -1, True, 1.5, 2**63, datetime(2026, 1, 1)])
async def test_what_is_no_end_is_refused_at_once(peer: pubsub.Peer, until: Any) -> None:
    async with pubsub.Client(peer.address) as client:
        with pytest.raises(pubsub.InvalidRequestError, match=r"an end is|no zone"):
            client.subscribe("a.b", until=until)
        with pytest.raises(pubsub.InvalidRequestError, match=r"an end is|no zone"):
            await client.query("a.b", until=until)


# Queries


async def test_a_query_ends_before_an_offset_or_a_time(peer: pubsub.Peer) -> None:
    times = await publish_apart(peer, 10)
    async with pubsub.Client(peer.address) as client:

        async def found(**options: Any) -> list[int]:
            return [message.offset for message in await client.query("a.b", **options)]

        assert await found(until=4) == [0, 1, 2, 3]
        assert await found(start=2, until=4) == [2, 3]
        assert await found(start=4, until=4) == []
        assert await found(start=7, until=4) == []
        assert await found(until=100) == list(range(10))
        assert await found(until=4, limit=2) == [0, 1]
        assert await found(until=times[3]) == [0, 1, 2]
        assert await found(until=datetime(9999, 1, 1, tzinfo=UTC)) == list(range(10))
        assert await found(until=datetime(1960, 1, 1, tzinfo=UTC)) == []


async def test_an_empty_topic_has_an_end_too(peer: pubsub.Peer) -> None:
    await make_topic(peer, "c.d")
    async with pubsub.Client(peer.address) as client:
        assert await client.query("c.d", until=5) == []
        async with client.subscribe("c.d", until=datetime.now(UTC)) as messages:
            assert await read_all(messages) == []
