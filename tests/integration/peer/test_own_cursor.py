"""A peer's durable subscriptions to topics of another: in its own file, and noted by the owner."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

import pubsub
from pubsub.config import IndexSettings
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.registry import EmbeddedRegistry
from tests.waiting import wait_until


class Two(NamedTuple):
    """Alice owns the topic a.b; bob subscribes."""

    index: str
    alice: pubsub.Peer
    bob: pubsub.Peer
    directory: Path


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    registry = EmbeddedRegistry("127.0.0.1:0")
    async with IndexServer(
        registry, listen=Address("127.0.0.1", 0), settings=IndexSettings(ttl_seconds=1.0)
    ) as index:
        address = str(index.address)
        async with (
            pubsub.Peer("alice", data=tmp_path / "alice", index=address) as alice,
            pubsub.Peer("bob", data=tmp_path / "bob", index=address) as bob,
        ):
            await alice.create_topic("a.b")
            await alice.publish_many("a.b", [b"%d" % n for n in range(10)])
            yield Two(address, alice, bob, tmp_path)


def in_file(directory: Path) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{directory}/peer.db?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT name, position FROM cursors"))


def noted(two: Two, expected: dict[str, int]) -> bool:
    """Whether alice has these cursors, in her file and, which may be a moment later, in memory."""
    known = {cursor.name: cursor.position for cursor in two.alice._node.store.cursors.all()}
    return in_file(two.directory / "alice") == known == expected


async def read(messages: pubsub.Subscription, count: int) -> list[int]:
    return [(await anext(messages)).offset for _ in range(count)]


async def test_the_cursor_is_in_the_peers_own_file_and_the_owner_notes_it(two: Two) -> None:
    async with two.bob.subscribe("a.b", durable="dash", start=2) as messages:
        await wait_until(lambda: noted(two, {"dash@bob": 2}))
        assert await read(messages, 3) == [2, 3, 4]
        await messages.commit()
        assert in_file(two.directory / "bob") == {"dash": 5}
        await wait_until(lambda: noted(two, {"dash@bob": 5}))
    topic = two.alice._node.store.topics["a.b"]
    assert two.alice._node.cursors.floor(topic) == 5
    async with two.bob.subscribe("a.b", durable="dash", start="earliest") as messages:
        assert await read(messages, 1) == [5]


async def test_it_does_not_meet_a_clients_subscription_of_the_same_name(two: Two) -> None:
    async with (
        pubsub.Client(two.index) as client,
        client.subscribe("a.b", durable="dash", start=1) as theirs,
        two.bob.subscribe("a.b", durable="dash", start=5) as own,
    ):
        assert await read(theirs, 1) == [1]
        assert await read(own, 1) == [5]
        await wait_until(lambda: noted(two, {"dash": 1, "dash@bob": 5}))
        names = [info.subscription for info in await client.subscriptions("a.b")]
        assert names == ["dash", "dash@bob"]


async def test_of_its_own_topic_there_is_one_cursor_for_the_peer_and_for_clients(two: Two) -> None:
    async with two.alice.subscribe("a.b", durable="dash", start=3) as messages:
        await read(messages, 2)
        await messages.commit()
    async with pubsub.Client(two.index) as client, client.subscribe("a.b", durable="dash") as messages:
        assert await read(messages, 1) == [5]


async def test_it_is_known_and_committed_while_the_owner_is_away(two: Two) -> None:
    async with two.bob.subscribe("a.b", durable="dash", start=2) as messages:
        assert await read(messages, 3) == [2, 3, 4]
        await two.alice.close()
        await messages.commit()
        info = await two.bob.subscription("a.b", "dash")
        assert (info.subscription, info.position, info.lag, info.kept_at) == ("dash@bob", 5, None, "bob")
        assert info.connected
        async with pubsub.Client(two.index) as client:
            await wait_until(lambda: offline(client))
            (listed,) = await client.subscriptions("a.b")
            assert (listed.subscription, listed.position, listed.lag) == ("dash@bob", 5, None)
        async with pubsub.Peer("alice", data=two.directory / "alice", index=two.index) as alice:
            # back again, it is told how far the subscription has got meanwhile
            topic = alice._node.store.topics["a.b"]
            await wait_until(lambda: alice._node.cursors.floor(topic) == 5)
            assert await read(messages, 1) == [5]


async def offline(client: pubsub.Client) -> bool:
    return not (await client.topic("a.b")).online


async def test_listings_join_what_the_peer_keeps_and_what_the_owner_knows(two: Two) -> None:
    async with (
        pubsub.Client(two.index) as client,
        two.bob.subscribe("a.b", durable="dash", start=2) as messages,
    ):
        await wait_until(lambda: noted(two, {"dash@bob": 2}))
        cursor = two.bob._node.store.cursors.find(messages.topic_id, "dash")
        assert cursor is not None
        cursor.position = 7  # as if the owner were behind
        for found in (await client.subscriptions(), await client.subscriptions("a.b")):
            (info,) = found
            assert (info.topic, info.subscription, info.position) == ("a.b", "dash@bob", 7)
            assert (info.lag, info.kept_at, info.connected) == (3, "bob", True)


async def test_reset_reaches_both_files_and_ends_the_subscription(two: Two) -> None:
    async with pubsub.Client(two.index) as client:
        async with two.bob.subscribe("a.b", durable="dash", start="earliest") as messages:
            await read(messages, 6)
            await messages.commit()
            await wait_until(lambda: noted(two, {"dash@bob": 6}))
            await client.reset_subscription("a.b", "dash@bob", 1)
            assert in_file(two.directory / "bob") == {"dash": 1}
            assert in_file(two.directory / "alice") == {"dash@bob": 1}
            with pytest.raises(pubsub.SubscriptionTakenError, match="reset to offset 1"):
                await read(messages, 1)
        async with two.bob.subscribe("a.b", durable="dash") as messages:
            assert await read(messages, 2) == [1, 2]
            await messages.commit()
            await wait_until(lambda: noted(two, {"dash@bob": 3}))
        await two.bob.reset_subscription("a.b", "dash", "latest")  # its own may be named without @bob
        assert (await client.subscription("a.b", "dash@bob")).position == 10


async def test_delete_reaches_both_files_and_ends_the_subscription(two: Two) -> None:
    async with pubsub.Client(two.index) as client:
        async with two.bob.subscribe("a.b", durable="dash", start="earliest") as messages:
            await wait_until(lambda: noted(two, {"dash@bob": 0}))
            assert await client.delete_subscription("a.b", "dash@bob") == ""
            with pytest.raises(pubsub.SubscriptionNotFoundError, match="was deleted"):
                await read(messages, 1)
        assert in_file(two.directory / "bob") == in_file(two.directory / "alice") == {}
        with pytest.raises(pubsub.SubscriptionNotFoundError, match="dash@bob"):
            await client.delete_subscription("a.b", "dash@bob")


async def test_of_a_peer_that_is_away_the_owners_note_can_be_deleted_but_not_reset(two: Two) -> None:
    async with two.bob.subscribe("a.b", durable="dash", start="earliest"):
        await wait_until(lambda: noted(two, {"dash@bob": 0}))
    await two.bob.close()
    async with pubsub.Client(two.index) as client:
        with pytest.raises(pubsub.PeerUnavailableError, match="bob"):
            await client.reset_subscription("a.b", "dash@bob", 1)
        assert "bob is away" in await client.delete_subscription("a.b", "dash@bob")
    assert in_file(two.directory / "alice") == {}


async def test_two_in_one_peer_the_later_takes_over(two: Two) -> None:
    async with two.bob.subscribe("a.b", durable="dash", start="earliest") as earlier:
        await read(earlier, 3)
        async with two.bob.subscribe("a.b", durable="dash") as later:
            with pytest.raises(pubsub.SubscriptionTakenError, match="another subscriber"):
                await read(earlier, 1)
            assert (await read(later, 1))[0] in (0, 1, 2)


async def test_a_peer_that_lost_its_directory_begins_anew_and_the_owner_keeps_for_it_what_it_had(
    two: Two,
) -> None:
    async with two.bob.subscribe("a.b", durable="dash", start=2) as messages:
        await read(messages, 3)
        await messages.commit()
        await wait_until(lambda: noted(two, {"dash@bob": 5}))
    await two.bob.close()
    async with (
        pubsub.Peer("bob", data=two.directory / "new", index=two.index) as bob,
        bob.subscribe("a.b", durable="dash", start=3) as messages,
    ):
        assert await read(messages, 1) == [3]
        await wait_until(lambda: noted(two, {"dash@bob": 3}))


async def test_a_topic_created_anew_is_begun_anew_and_the_old_cursor_goes(two: Two) -> None:
    async with two.bob.subscribe("a.b", durable="dash", start=7):
        pass
    await two.alice.delete_topic("a.b")
    await two.alice.create_topic("a.b")
    await two.alice.publish("a.b", b"of the new one")
    async with two.bob.subscribe("a.b", durable="dash", start="earliest") as messages:
        assert (await anext(messages)).payload == b"of the new one"
    assert in_file(two.directory / "bob") == {"dash": 0}


async def test_on_lost_holds_for_a_cursor_of_its_own_too(two: Two) -> None:
    async with two.bob.subscribe("a.b", durable="dash", start=2):
        pass
    topic = two.alice._node.store.topics["a.b"]
    topic.first_offset = 6
    with pytest.raises(pubsub.OffsetOutOfRangeError):
        async with two.bob.subscribe("a.b", durable="dash"):
            pass
    async with two.bob.subscribe("a.b", durable="dash", on_lost="skip") as messages:
        assert messages.skipped == 4
        assert await read(messages, 1) == [6]
