"""Policies at work in a real peer, with a real index: what goes, who is told, what the registry says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import pubsub
from pubsub.config import IndexSettings, PeerSettings
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.registry import EmbeddedRegistry
from pubsub.storage.topic import Topic
from tests.waiting import wait_until

QUICK = PeerSettings(retention_seconds=0.05, give_back_seconds=0.2)
NEVER = PeerSettings(retention_seconds=3600.0)
"""Nothing is looked at but at the start, and when something asks for it."""

Open = Callable[..., Awaitable[pubsub.Peer]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def an_index(listen: Address, **settings: float) -> IndexServer:
    index = IndexServer(EmbeddedRegistry("127.0.0.1:0"), listen=listen, settings=IndexSettings(**settings))
    await index.start()
    return index


@pytest.fixture
async def index(stack: AsyncExitStack) -> IndexServer:
    index = await an_index(Address("127.0.0.1", 0), ttl_seconds=2.0)
    stack.push_async_callback(index.close)
    return index


@pytest.fixture
def open_peer(stack: AsyncExitStack, tmp_path: Path, index: IndexServer) -> Open:
    async def open_it(settings: PeerSettings = QUICK, name: str = "alice") -> pubsub.Peer:
        peer = pubsub.Peer(name, data=tmp_path / name, index=str(index.address), peer_settings=settings)
        return await stack.enter_async_context(peer)

    return open_it


@pytest.fixture
async def peer(open_peer: Open) -> pubsub.Peer:
    return await open_peer()


def held(peer: pubsub.Peer, topic: str = "t") -> Topic:
    return peer._node.store.topics[topic]


async def kept(client: pubsub.Client, topic: str = "t") -> list[int]:
    return [message.offset for message in await client.query(topic, limit=100_000)]


async def record_of(index: IndexServer, topic: str = "t") -> dict[str, Any] | None:
    (record,) = await index._registry.lookup([topic])
    return None if record is None else dict(record.policy)


# Each limit


@pytest.mark.parametrize(
    ("policy", "first_kept"),
    [({"max_messages": "30"}, 70), ({"max_bytes": "2kB"}, 80), ({"max_messages": 50, "max_bytes": 2500}, 75)],
)
async def test_what_is_beyond_a_limit_goes(
    peer: pubsub.Peer, policy: dict[str, Any], first_kept: int
) -> None:
    await peer.create_topic("t", policy=policy)
    await peer.publish_many("t", [b"x" * 100] * 100)
    await wait_until(lambda: held(peer).first_offset == first_kept)
    assert await kept(peer) == list(range(first_kept, 100))
    info = await peer.topic("t")
    assert (info.first_offset, info.next_offset) == (first_kept, 100)
    assert (info.messages, info.bytes) == (100 - first_kept, 100 * (100 - first_kept))


async def test_an_idle_topic_loses_what_gets_too_old(peer: pubsub.Peer) -> None:
    await peer.create_topic("t", policy={"max_age": "300ms"})
    await peer.publish_many("t", [b"x"] * 10)
    began = time.monotonic()
    await wait_until(lambda: held(peer).messages == 0)
    assert time.monotonic() - began > 0.2
    assert (held(peer).first_offset, await peer.publish("t", b"y")) == (10, 10)
    await wait_until(lambda: held(peer).first_offset == 11)


async def test_without_limits_and_by_default_nothing_goes(peer: pubsub.Peer) -> None:
    await peer.create_topic("t")
    await peer.create_topic("u", policy={"max_messages": 1})
    await peer.publish_many("t", [b"x"] * 10)
    await peer.publish_many("u", [b"x"] * 10)
    await wait_until(lambda: held(peer, "u").messages == 1)
    assert held(peer).messages == 10


async def test_a_topic_that_grows_far_beyond_its_limit_does_not_wait_for_the_next_look(
    open_peer: Open,
) -> None:
    peer = await open_peer(NEVER)
    await peer.create_topic("t", policy={"max_messages": 1000})
    await peer.publish_many("t", [b"x" * 10] * 20_000)
    await wait_until(lambda: held(peer).messages == 1000)


async def test_a_topic_stays_near_its_limit_while_it_is_published_to_as_fast_as_can_be(
    open_peer: Open,
) -> None:
    peer = await open_peer(NEVER)
    await peer.create_topic("t", policy={"max_bytes": "1MB"})
    most = 0
    for _ in range(60):
        await peer.publish_many("t", [b"x" * 1000] * 200)
        most = max(most, held(peer).size_bytes)
    await wait_until(lambda: held(peer).size_bytes <= 1_600_000)
    assert (
        most < 5_000_000
    )  # of 12 MB: what is published during a few commits, more of them on a busy machine


async def test_after_a_restart_in_the_middle_retention_goes_on(open_peer: Open) -> None:
    peer = await open_peer(NEVER)
    await peer.create_topic("t")
    await peer.publish_many("t", [b"x" * 100] * 30_000)
    await peer.set_policy("t", max_messages=10)
    await wait_until(lambda: held(peer).first_offset > 0)
    await peer.close()
    peer = await open_peer()
    await wait_until(lambda: held(peer).messages == 10)
    assert await kept(peer) == list(range(29_990, 30_000))


# Until acknowledged


async def test_until_acknowledged_what_every_group_and_durable_subscription_has_passed_goes(
    peer: pubsub.Peer,
) -> None:
    await peer.create_topic("t", policy={"until_acknowledged": True})
    await peer.publish_many("t", [b"%d" % n for n in range(20)])
    async with pubsub.Client(peer.address) as client:
        reader = client.subscribe("t", start="earliest", durable="dash", auto_commit=False)
        member = client.subscribe("t", group="workers")
        async with reader, member:
            for _ in range(15):
                await anext(reader)
            await reader.commit()
            taken = [await anext(member) for _ in range(20)]
            for message in taken[:5] + taken[6:]:
                await message.ack()
            await wait_until(lambda: held(peer).first_offset == 5)
            await taken[5].ack()
            await wait_until(lambda: held(peer).first_offset == 15)
            for _ in range(5):
                await anext(reader)
            await reader.commit()
            await wait_until(lambda: held(peer).first_offset == 20)
        assert (await client.group("t", "workers")).lag == 0


async def test_until_acknowledged_with_nobody_there_everything_is_kept(peer: pubsub.Peer) -> None:
    await peer.create_topic("t", policy={"until_acknowledged": True})
    await peer.create_topic("u", policy={"max_messages": 1})
    await peer.publish_many("t", [b"x"] * 20)
    await peer.publish_many("u", [b"x"] * 20)
    await wait_until(lambda: held(peer, "u").messages == 1)
    assert held(peer).messages == 20


async def test_until_acknowledged_a_limit_takes_what_is_not_acknowledged_and_the_group_goes_on(
    peer: pubsub.Peer,
) -> None:
    await peer.create_topic("t", policy={"until_acknowledged": True, "max_messages": 5})
    async with pubsub.Client(peer.address) as client:
        async with client.subscribe("t", group="workers"):
            pass
        await client.publish_many("t", [b"%d" % n for n in range(20)])
        await wait_until(lambda: held(peer).first_offset == 15)
        await wait_until(lambda: _lag_is(client, 5))
        async with client.subscribe("t", group="workers") as member:
            for offset in range(15, 20):
                message = await anext(member)
                assert message.offset == offset
                await message.ack()
        await wait_until(lambda: held(peer).messages == 0)


async def _lag_is(client: pubsub.Client, lag: int) -> bool:
    return (await client.group("t", "workers")).lag == lag


# Publishing and subscribing meanwhile


async def test_a_subscriber_that_keeps_up_misses_nothing_of_a_topic_that_is_trimmed(
    peer: pubsub.Peer,
) -> None:
    await peer.create_topic("t", policy={"max_messages": 2000})
    count = 20_000
    async with pubsub.Client(peer.address) as client:
        seen: list[int] = []
        async with client.subscribe("t", start="earliest") as messages:

            async def read() -> None:
                async for message in messages:
                    seen.append(message.offset)
                    if message.offset == count - 1:
                        return

            reading = asyncio.create_task(read())
            for first in range(0, count, 500):
                await client.publish_many("t", [b"x" * 50] * 500)
                await wait_until(lambda first=first: len(seen) > first - 500)
            await asyncio.wait_for(reading, 20)
    assert seen == list(range(count))
    await wait_until(lambda: held(peer).messages == 2000)
    assert held(peer).first_offset > 0


async def test_a_subscriber_that_falls_behind_is_told_or_skips_as_it_chose(peer: pubsub.Peer) -> None:
    await peer.create_topic("t")
    await peer.publish_many("t", [b"x"] * 100)
    async with pubsub.Client(peer.address) as client:
        async with (
            client.subscribe("t", start=0, durable="strict") as strict,
            client.subscribe("t", start=0, durable="easy") as easy,
        ):
            assert ((await anext(strict)).offset, (await anext(easy)).offset) == (0, 0)
        await peer.set_policy("t", max_messages=10)
        await wait_until(lambda: held(peer).first_offset == 90)
        with pytest.raises(pubsub.OffsetOutOfRangeError) as caught:
            async with client.subscribe("t", durable="strict") as messages:
                await anext(messages)
        assert caught.value.data["first_offset"] == 90
        async with client.subscribe("t", durable="easy", on_lost="skip") as messages:
            assert (await anext(messages)).offset == 90
        assert (await client.subscription("t", "strict")).lag == 10


# Compaction


async def test_a_compacted_topic_keeps_the_latest_of_each_key_for_every_kind_of_reader(
    peer: pubsub.Peer,
) -> None:
    await peer.create_topic("t", policy={"compact": True})
    async with pubsub.Client(peer.address) as client:
        for turn in range(10):
            await client.publish_many("t", [pubsub.NewMessage(b"%d" % turn, key=f"k{n}") for n in range(20)])
        removal = await client.publish("t", None, key="k3")
        await wait_until(lambda: held(peer).messages == 20)
        expected = [offset for offset in range(180, 201) if offset != 183]
        assert await kept(client) == expected
        info = await client.topic("t")
        assert (info.first_offset, info.next_offset, info.messages) == (0, 201, 20)
        for start in ("earliest", 0, 7, 183):
            async with client.subscribe("t", start=start) as messages:
                read = [await anext(messages) for _ in range(20 if start != 183 else 17)]
            assert [message.offset for message in read] == [o for o in expected if start != 183 or o > 183]
            assert (read[-1].offset, read[-1].key, read[-1].payload) == (removal, "k3", None)
        async with client.subscribe("t", start="earliest", durable="d") as messages:
            assert (await anext(messages)).offset == 180
        assert (await client.subscription("t", "d")).lag in (19, 20)
        assert (await client.query("t", start=183, limit=1))[0].offset == 184
        assert (await client.query("t", key="k5"))[0].payload == b"9"
        at = (await client.query("t", start=200))[0].published_at
        assert (await client.query("t", start=at))[-1].offset == 200
        assert await client.publish("t", b"back", key="k3") == 201


async def test_compaction_leaves_a_group_every_message_that_it_has_still_to_be_given(
    peer: pubsub.Peer,
) -> None:
    await peer.create_topic("t", policy={"compact": True})
    async with pubsub.Client(peer.address) as client, client.subscribe("t", group="g") as member:
        await client.publish_many("t", [b"%d" % n for n in range(10)], key="k")
        taken = [await anext(member) for _ in range(10)]
        assert [message.offset for message in taken] == list(range(10))
        await client.publish("t", b"x", key="other")
        assert held(peer).messages == 11
        for message in taken[:5]:
            await message.ack()
        await wait_until(lambda: held(peer).messages == 7)
        assert await kept(client) == [4, 5, 6, 7, 8, 9, 10]


async def test_a_removed_key_goes_after_its_time_and_compaction_can_be_switched_off(open_peer: Open) -> None:
    peer = await open_peer(PeerSettings(retention_seconds=0.05, removed_key_seconds=0.3))
    await peer.create_topic("t", policy={"compact": True})
    await peer.publish("t", b"1", key="a")
    await peer.publish("t", None, key="a")
    await peer.publish("t", b"1", key="b")
    await wait_until(lambda: held(peer).messages == 1)
    assert await kept(peer) == [2]
    await peer.set_policy("t", compact=False)
    await wait_until(lambda: held(peer).compacted_to == 0)
    await peer.publish("t", b"2", key="b")
    assert await kept(peer) == [2, 3]
    await peer.set_policy("t", compact="on")
    await wait_until(lambda: held(peer).messages == 1)


# Setting policies


async def test_a_policy_is_in_the_file_at_once_and_in_the_registry_soon(
    peer: pubsub.Peer, index: IndexServer, open_peer: Open
) -> None:
    created = await peer.create_topic("t", policy=pubsub.Policy(max_messages=5))
    assert created.policy == {"max_messages": 5}
    async with pubsub.Client(str(index.address)) as client:
        changed = await client.set_policy("t", max_age="7d", max_messages=None)
        assert changed.policy == {"max_age_seconds": 604_800}
        assert (await client.topic("t")).policy == changed.policy
        assert (await client.set_policy("t", pubsub.Policy(compact=True))).policy == {"compact": True}
        await client.set_policy("t", dedupe="1h")
    policy = {"compact": True, "dedupe_seconds": 3600}
    await wait_until(lambda: _record_is(index, policy))
    await peer.close()
    assert held(await open_peer()).policy == policy


async def _record_is(index: IndexServer, policy: dict[str, Any]) -> bool:
    return await record_of(index) == policy


async def test_a_policy_changed_while_the_index_is_away_reaches_it_when_it_is_back(
    peer: pubsub.Peer, index: IndexServer
) -> None:
    await peer.create_topic("t")
    address = index.address
    await index.close()
    async with pubsub.Client(peer.address) as client:
        await client.set_policy("t", max_bytes="10GiB")
    successor = await an_index(address, ttl_seconds=2.0)
    try:
        await wait_until(lambda: _record_is(successor, {"max_bytes": 10 * 1024**3}))
    finally:
        await successor.close()


async def test_changes_at_the_same_time_are_all_made(peer: pubsub.Peer) -> None:
    await peer.create_topic("t")
    async with pubsub.Client(peer.address) as client:
        await asyncio.gather(
            client.set_policy("t", max_age="1h"),
            client.set_policy("t", max_messages=7),
            client.set_policy("t", max_bytes="1MB"),
            client.set_policy("t", dedupe="off"),
        )
    assert held(peer).policy == {
        "max_age_seconds": 3600,
        "max_messages": 7,
        "max_bytes": 1_000_000,
        "dedupe_seconds": 0,
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "say what to change"),
        ({"max_age": "0s"}, "more than 0"),
        ({"max_messages": -3}, "more than 0"),
        ({"max_bytes": "10 apples"}, "size"),
        ({"keep": "7d"}, "no part of a policy"),
        ({"until_acknowledged": True}, "exclude each other"),
    ],
)
async def test_a_wrong_change_changes_nothing(peer: pubsub.Peer, changes: dict[str, Any], why: str) -> None:
    await peer.create_topic("t", policy={"compact": True})
    with pytest.raises(pubsub.SettingsError, match=why):
        await peer.set_policy("t", **changes)
    assert held(peer).policy == {"compact": True}


async def test_a_topic_is_not_created_with_a_wrong_policy_or_a_reserved_name(peer: pubsub.Peer) -> None:
    with pytest.raises(pubsub.SettingsError, match="no unit of time"):
        await peer.create_topic("t", policy={"max_age": "7y"})
    with pytest.raises(pubsub.InvalidNameError, match="reserved"):
        await peer.create_topic("t.dead")
    with pytest.raises(pubsub.SettingsError, match="not both"):
        await peer.set_policy("t", pubsub.Policy(), max_messages=1)
    with pytest.raises(pubsub.TopicNotFoundError):
        await peer.set_policy("t", max_messages=1)
    assert await peer.topics() == []


async def test_a_message_without_payload_needs_a_key(peer: pubsub.Peer) -> None:
    await peer.create_topic("t")
    async with pubsub.Client(peer.address) as client:
        for publisher in (peer, client):
            with pytest.raises(pubsub.InvalidRequestError, match="removes a key"):
                await publisher.publish("t", None)
            with pytest.raises(pubsub.InvalidRequestError, match="removes a key"):
                await publisher.publish_many("t", [b"x", None])
        assert await client.publish_many("t", [None, b"y"], key="k") == [2, 3]
        assert await peer.publish("t", None, key="k") == 4
        found = await client.query("t")
    assert [(m.key, m.payload) for m in found] == [(None, b"x")] * 2 + [("k", None), ("k", b"y"), ("k", None)]


# The file


async def test_a_file_shrinks_when_most_of_it_was_trimmed(peer: pubsub.Peer) -> None:
    await peer.create_topic("t")
    for _ in range(20):
        await peer.publish_many("t", [bytes(1000)] * 1000)
    path = peer._node.store.path
    await wait_until(lambda: path.stat().st_size > 15_000_000)
    await peer.set_policy("t", max_messages=100)
    await wait_until(lambda: path.stat().st_size < 4_000_000, timeout_seconds=30)
    assert await kept(peer) == list(range(19_900, 20_000))


async def test_ids_of_messages_are_forgotten_after_the_window_of_the_topic(
    open_peer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pubsub.peer import retention

    monkeypatch.setattr(retention, "IDS_SECONDS", 0.05)
    peer = await open_peer()
    await peer.create_topic("t", policy={"dedupe": "300ms"})
    await peer.create_topic("u")
    await peer.publish("t", b"x", message_id="a")
    await peer.publish("u", b"x", message_id="a")
    upkeep = peer._node.store.upkeep

    async def only_one_is_left() -> bool:
        return [topic_id for topic_id, _ in await upkeep.oldest_ids()] == [held(peer, "u").id]

    await wait_until(only_one_is_left)
    assert await peer.publish("u", b"x", message_id="a") == 0
    assert await peer.publish("t", b"x", message_id="a") == 1


async def test_a_peer_killed_before_its_groups_learned_what_went_finds_no_ghosts(open_peer: Open) -> None:
    peer = await open_peer(NEVER)
    await peer.create_topic("t")
    await peer.publish_many("t", [b"%d" % n for n in range(20)])
    async with pubsub.Client(peer.address) as client, client.subscribe("t", group="workers") as member:
        for _ in range(10):
            await anext(member)
        peer._node.retention.when_trimmed.clear()  # as if it was killed right after the commit
        await peer.set_policy("t", max_messages=5)
        await wait_until(lambda: held(peer).first_offset == 15)
    await peer.close()
    peer = await open_peer()
    async with pubsub.Client(peer.address) as client:
        info = await client.group("t", "workers")
        assert (info.lag, info.ready) == (5, 5)
        async with client.subscribe("t", group="workers") as member:
            assert [(await anext(member)).offset for _ in range(5)] == list(range(15, 20))
