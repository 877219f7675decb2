"""Delivery within the window: no more than it allows, and every message in its turn."""

from __future__ import annotations

import pytest

from pubsub.config import Limits
from pubsub.protocol.batch import message_sizes
from tests.integration.peer.grouping import OpenPeer
from tests.integration.peer.tapping import WIDE, OpenLink, Tap, publish, tap
from tests.waiting import wait_until


@pytest.mark.parametrize("source", ["memory", "disk"])
@pytest.mark.parametrize(
    ("messages", "size_bytes", "expected"),
    [
        (7, WIDE, 7),
        (WIDE, 1_000, 10),
        (WIDE, 1_099, 10),
        (3, 1_000, 3),
        (0, WIDE, 0),
        (5, 0, 1),
        (WIDE, 99, 1),
    ],
)
async def test_no_more_is_sent_than_the_window_allows(
    open_peer: OpenPeer, open_link: OpenLink, source: str, messages: int, size_bytes: int, expected: int
) -> None:
    peer = await open_peer()
    if source == "disk":
        await publish(peer, [bytes(100)] * 50)
    link = await open_link(peer)
    narrow = Tap(link, 1, messages, size_bytes)
    narrow._window = (messages, size_bytes)
    await narrow.start()
    witness = await tap(link, 2)  # has the same way to go: what it gets, the other could have got as well
    if source == "memory":
        await publish(peer, [bytes(100)] * 50)
    await wait_until(lambda: witness.position == 50)
    await wait_until(lambda: narrow.position >= expected)
    await publish(peer, [bytes(100)])
    await wait_until(lambda: witness.position == 51)
    assert len(narrow.payloads) == expected


async def test_a_message_larger_than_the_window_comes_alone(open_peer: OpenPeer, open_link: OpenLink) -> None:
    peer = await open_peer()
    sizes = [10, 5_000, 10, 10, 6_000, 7_000, 10]
    await publish(peer, [bytes(size) for size in sizes])
    one = Tap(await open_link(peer), 1, 100, 1_000)
    one.after_frame = one.credit_everything
    await one.start()
    await wait_until(lambda: one.position == 7)
    assert [message_sizes(batch) for batch in one.frames] == [[10], [5_000], [10, 10], [6_000], [7_000], [10]]


async def test_a_small_message_does_not_overtake_a_larger_one_that_waits_for_credit(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    # Reads come in parts here; a part that fits must not be sent while the one before it waits.
    peer = await open_peer(limits=Limits(batch_messages=2))
    await publish(peer, [bytes(size) for size in (10, 900, 10, 10)])
    one = Tap(await open_link(peer), 1, 100, 500)
    await one.start()
    await wait_until(lambda: one.position == 1)
    await publish(peer, [bytes(10)])
    one.after_frame = one.credit_everything
    one.credit_everything()
    await wait_until(lambda: one.position == 5)
    assert [size for batch in one.frames for size in message_sizes(batch)] == [10, 900, 10, 10, 10]
