"""Messages held for later: listed in order, cancelled, gone with their topic."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

import pubsub
from pubsub.model import NewMessage
from tests.integration.client.conftest import make_topic
from tests.integration.client.scheduling import HOUR, Clock, held, stored
from tests.waiting import wait_until


async def test_held_messages_are_listed_in_order_page_by_page(
    peer: pubsub.Peer, client: pubsub.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = datetime(2030, 1, 1, tzinfo=UTC)
    await client.publish_many(
        "a.b", [NewMessage(b"same %d" % n, key="k", headers={"h": "1"}) for n in range(25)], deliver_at=due
    )
    await client.publish("a.b", b"first", deliver_at=due - timedelta(days=1))
    await client.publish("a.b", "ä", deliver_at=due + timedelta(microseconds=1))
    monkeypatch.setattr("pubsub.client.schedule_verbs.PAGE_MESSAGES", 4)
    found = await client.scheduled("a.b", limit=1000)
    assert [m.payload for m in found] == [b"first", *(b"same %d" % n for n in range(25)), "ä".encode()]
    assert found[1] == pubsub.ScheduledMessage(
        topic="a.b",
        schedule_id=1,
        deliver_at="2030-01-01T00:00:00.000000Z",
        key="k",
        headers={"h": "1"},
        payload=b"same 0",
    )
    assert [m.schedule_id for m in await peer.scheduled("a.b", limit=6)] == [26, 1, 2, 3, 4, 5]
    assert (await peer.topic("a.b")).scheduled == 27
    await make_topic(peer, "empty")
    assert await client.scheduled("empty") == []
    assert (await peer.topic("empty")).scheduled == 0


async def test_large_held_messages_are_listed_in_frames_of_bounded_size(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    for n in range(30):
        await client.publish("a.b", bytes([n]) * 1_000_000, delay_seconds=HOUR)
    assert [m.payload[0] for m in await client.scheduled("a.b")] == list(range(30))  # type: ignore[index]


async def test_a_cancelled_message_never_comes_and_is_an_error_from_then_on(
    peer: pubsub.Peer, client: pubsub.Client, clock: Clock
) -> None:
    first = await client.publish("a.b", b"cancelled", delay_seconds=10)
    second = await client.publish("a.b", b"kept", delay_seconds=10)
    await client.cancel_scheduled("a.b", first)
    assert held(peer) == 1
    with pytest.raises(pubsub.ScheduledNotFoundError, match=rf"schedule id {first}\b") as caught:
        await client.cancel_scheduled("a.b", first)
    assert caught.value.data["schedule_ids"] == [first]
    clock.forward(11)

    async def kept_is_there() -> bool:
        return await stored(peer) == [b"kept"]

    await wait_until(kept_is_there)
    with pytest.raises(pubsub.ScheduledNotFoundError):
        await client.cancel_scheduled("a.b", second)


async def test_of_several_those_that_are_held_are_cancelled_and_the_others_named(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    await make_topic(peer, "other")
    mine = list(await client.publish_many("a.b", [b"x"] * 2500, delay_seconds=HOUR))
    others = await client.publish("other", b"x", delay_seconds=HOUR)
    with pytest.raises(pubsub.ScheduledNotFoundError, match="the others were cancelled") as caught:
        await client.cancel_scheduled("a.b", *mine[:2400], others, 10**9)
    assert caught.value.data["schedule_ids"] == [others, 10**9]
    assert held(peer) == 100
    assert held(peer, "other") == 1


async def test_what_is_cancelled_while_it_is_being_moved_is_in_exactly_one_place(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    cancelled: set[bytes] = set()
    expected: set[bytes] = set()

    async def one(n: int) -> None:
        payload = b"%d" % n
        number = await client.publish("a.b", payload, delay_seconds=0.02 + n % 7 / 100)
        await asyncio.sleep(0.02 + n % 5 / 100)
        try:
            await client.cancel_scheduled("a.b", number)
            cancelled.add(payload)
        except pubsub.ScheduledNotFoundError:
            expected.add(payload)

    await asyncio.gather(*(one(n) for n in range(300)))
    await wait_until(lambda: held(peer) == 0)
    payloads = await stored(peer)
    assert sorted(payloads) == sorted(expected)  # type: ignore[type-var]
    assert cancelled
    assert expected


async def test_a_deleted_topic_takes_what_is_held_with_it(peer: pubsub.Peer, clock: Clock) -> None:
    await make_topic(peer, "kept")
    await peer.publish("a.b", b"x", delay_seconds=10)
    await peer.publish("kept", b"y", delay_seconds=10)
    await peer._node.drop_copy(peer._node.store.topics["a.b"].id)
    await make_topic(peer, "a.b")
    clock.forward(11)

    async def kept_is_there() -> bool:
        return await stored(peer, "kept") == [b"y"]

    await wait_until(kept_is_there)
    assert await stored(peer) == []
    assert held(peer) == 0
