"""How subscriptions end, and which are refused; the others of the connection go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pubsub.config import Limits
from pubsub.errors import InvalidRequestError
from pubsub.protocol import messages as m
from tests.integration.peer.grouping import SECONDS, TOPIC, OpenPeer
from tests.integration.peer.tapping import WIDE, OpenLink, publish, tap
from tests.integration.storage.stores import copy_of
from tests.waiting import wait_until


async def test_nothing_comes_after_the_answer_to_unsubscribe_and_its_number_is_free_again(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    peer = await open_peer()
    link = await open_link(peer)
    for behind in (False, True):
        if behind:
            await publish(peer, [bytes(1_000)] * 3_000)
        one = await tap(link, 5)
        await publish(peer, [b"x"])
        await wait_until(lambda one=one: one.payloads)
        await link.request(m.Unsubscribe(link.next_id(), 5), SECONDS)
        before = len(one.payloads)
        witness = await tap(link, 6, start=m.LATEST)
        await publish(peer, [b"later"])
        await wait_until(lambda witness=witness: witness.payloads == [b"later"])
        assert len(one.payloads) == before
        await link.request(m.Unsubscribe(link.next_id(), 6), SECONDS)
    assert peer._node.deliveries.count() == 0
    assert peer._node.deliveries._feeds == {}


async def test_unsubscribing_from_what_is_not_there_is_fine(open_peer: OpenPeer, open_link: OpenLink) -> None:
    link = await open_link(await open_peer())
    assert isinstance(await link.request(m.Unsubscribe(link.next_id(), 5), SECONDS), m.Done)


@pytest.mark.parametrize("behind", [False, True])
async def test_a_topic_that_is_dropped_ends_its_subscriptions(
    open_peer: OpenPeer, open_link: OpenLink, behind: bool
) -> None:
    peer = await open_peer(TOPIC, "other")
    await publish(peer, [bytes(1_000)] * 2_000)
    link = await open_link(peer)
    one = await tap(link, 1, messages=10 if behind else WIDE)
    other = await tap(link, 2, topic="other")
    await wait_until(lambda: one.position >= 10)
    await peer._node.drop_copy(1)
    await wait_until(lambda: one.ended)
    assert one.ended is not None
    assert (one.ended.code, one.ended.message) == ("topic_not_found", f"topic {TOPIC} was deleted")
    await publish(peer, [b"x"], "other")
    await wait_until(lambda: other.payloads)
    await peer._node.holding.take(copy_of(3, TOPIC))
    again = await tap(link, 1)  # the number is free, and the topic is another one
    await publish(peer, [b"new"])
    await wait_until(lambda: again.payloads == [b"new"])


async def test_a_topic_that_is_set_aside_ends_its_subscriptions_too(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    peer = await open_peer()
    one = await tap(await open_link(peer))
    await peer._node.set_aside(peer._node.store.topic(TOPIC), "its name belongs to another")
    await wait_until(lambda: one.ended)
    assert one.ended is not None
    assert one.ended.code == "topic_not_found"
    assert "its name belongs to another" in one.ended.message


async def test_a_read_that_fails_ends_the_subscription_with_the_reason_and_frees_its_number(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    peer = await open_peer()
    await publish(peer, [b"x"] * 10)
    peer._node.store._reader.close()
    link = await open_link(peer)
    one = await tap(link, 1)
    await wait_until(lambda: one.ended)
    assert one.ended is not None
    assert one.ended.code == "closed"
    live = await tap(link, 1, start=m.LATEST)  # memory is all that it needs
    await publish(peer, [b"y"])
    await wait_until(lambda: live.payloads == [b"y"])


async def test_a_fault_while_reading_ends_that_subscription_only(
    open_peer: OpenPeer,
    open_link: OpenLink,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    peer = await open_peer()
    await publish(peer, [b"x"] * 10)
    link = await open_link(peer)
    live = await tap(link, 2, start=m.LATEST)

    async def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(peer._node.store, "read", broken)
    one = await tap(link, 1)
    await wait_until(lambda: one.ended)
    assert one.ended is not None
    assert one.ended.code == "internal"
    assert f"reading {TOPIC} for" in caplog.text
    await publish(peer, [b"y"])
    await wait_until(lambda: live.payloads == [b"y"])


async def test_a_connection_that_is_lost_leaves_nothing_behind(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    peer = await open_peer()
    await publish(peer, [bytes(1_000)] * 5_000)
    link = await open_link(peer)
    for number in range(10):
        await tap(link, number, messages=number * 100)
    assert peer._node.deliveries.count() == 10
    link.abort()
    deliveries = peer._node.deliveries
    await wait_until(lambda: deliveries.count() == 0)
    assert (deliveries._feeds, deliveries._subscribers, deliveries._budget.used_bytes) == ({}, {}, 0)
    await publish(peer, [b"x"])
    await wait_until(lambda: not any(f"read {TOPIC} for" in task.get_name() for task in asyncio.all_tasks()))


async def test_more_subscriptions_than_a_connection_may_have_are_refused(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    peer = await open_peer(limits=Limits(subscriptions=3))
    link, other = await open_link(peer), await open_link(peer)
    taps = [await tap(link, number) for number in range(3)]
    with pytest.raises(InvalidRequestError, match="at most 3 subscriptions on one connection"):
        await tap(link, 3)
    await tap(other, 3)
    await link.request(m.Unsubscribe(link.next_id(), 0), SECONDS)
    taps[0] = await tap(link, 4)
    await publish(peer, [b"x"])
    await wait_until(lambda: all(one.payloads == [b"x"] for one in taps))


async def test_a_number_in_use_is_refused_and_its_subscription_goes_on(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    peer = await open_peer()
    link = await open_link(peer)
    one = await tap(link, 1)
    with pytest.raises(InvalidRequestError, match="has a subscription 1 already"):
        await one.start()
    await publish(peer, [b"x"])
    await wait_until(lambda: one.payloads == [b"x"])
