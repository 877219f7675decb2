"""Delivery at nobody else's cost: neither that of other subscriptions nor that of the peer's memory."""

from __future__ import annotations

import asyncio

import pytest

from pubsub.config import KIB, MIB, Limits, PeerSettings, StorageSettings
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from tests.integration.peer.grouping import TOPIC, OpenPeer
from tests.integration.peer.tapping import WIDE, OpenLink, Tap, count_reads, publish, tap
from tests.waiting import wait_until


async def test_a_subscriber_whose_window_is_used_up_causes_no_reads(
    open_peer: OpenPeer, open_link: OpenLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer(peer_settings=PeerSettings(tail_bytes=KIB))
    await publish(peer, [bytes(400)] * 20)
    link = await open_link(peer)
    reads = count_reads(peer, monkeypatch)
    stuck = await tap(link, 1, size_bytes=1_000)
    await wait_until(lambda: stuck.position == 2)
    live = await tap(link, 2, start=m.LATEST)
    for _ in range(50):
        await publish(peer, [bytes(400)])
    await wait_until(lambda: live.position == 70)
    assert [start for start in reads if start == 2] in (
        [],
        [2],
    )  # once, to learn that the next one does not fit
    assert stuck.position == 2


async def test_subscribers_that_do_not_read_delay_nobody_and_hold_little_memory(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    buffer, tail, read = 64 * KIB, 32 * KIB, 32 * KIB
    peer = await open_peer(
        limits=Limits(write_buffer_bytes=buffer, batch_bytes=16 * KIB),
        peer_settings=PeerSettings(tail_bytes=tail, tails_bytes=tail),
        storage_settings=StorageSettings(read_bytes=read),
    )
    stopped = await open_link(peer)
    (connection,) = [
        c for c in peer._server.connections if c.greeting is not None and c.greeting.name == "test"
    ]
    payload = bytes(8_000)
    await publish(peer, [payload] * 100)
    assert stopped._transport is not None
    for number in range(100):  # each of them is behind
        stopped.send(
            encode_frame(
                m.Subscribe(
                    id=stopped.next_id(),
                    subscription=number,
                    topic=TOPIC,
                    start=0,
                    window_messages=WIDE,
                    window_bytes=WIDE,
                )
            )
        )
    stopped._transport.pause_reading()
    reader = await open_link(peer)
    live = await tap(reader, start=m.LATEST)
    most_unsent = 0
    for _ in range(400):  # more than the sockets' own buffers take
        await publish(peer, [payload] * 10)
        most_unsent = max(most_unsent, connection.unsent_bytes)
        assert peer._node.deliveries._budget.used_bytes <= tail
    await wait_until(lambda: live.position == 4_100)
    assert not connection.writable
    # The buffer, what was sent at once before it was seen to be full, and two reads under way; not 100 of them.
    assert most_unsent <= buffer + 4 * read + 32 * KIB
    assert peer._node.store.queued_bytes == 0


@pytest.mark.parametrize("source", ["memory", "disk"])
async def test_a_long_way_to_catch_up_does_not_keep_other_subscriptions_of_the_connection_waiting(
    open_peer: OpenPeer, open_link: OpenLink, source: str
) -> None:
    tail_bytes = 64 * MIB if source == "memory" else KIB
    peer = await open_peer(
        "long",
        "short",
        limits=Limits(write_buffer_bytes=64 * KIB),
        peer_settings=PeerSettings(tail_bytes=tail_bytes, tails_bytes=tail_bytes),
    )
    link = await open_link(peer)
    long = await tap(link, 1, messages=0, topic="long")
    short = await tap(link, 2, messages=0, topic="short")
    for _ in range(20):
        await publish(peer, [bytes(50_000)] * 20, "long")
    await publish(peer, [b"x"] * 10, "short")
    reached: list[int] = []
    short.after_frame = lambda batch: reached.append(len(long.payloads))
    long.credit(10_000, 0)
    short.credit(10_000, 0)
    await wait_until(lambda: long.position == 400 and short.position == 10, 20)
    assert reached[-1] < 300


async def test_many_subscriptions_that_are_behind_on_one_connection_all_arrive(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    names = [f"t{n}" for n in range(60)]
    peer = await open_peer(*names, storage_settings=StorageSettings(read_bytes=2 * KIB))
    await asyncio.gather(*(publish(peer, [b"%d" % n * 100 for n in range(50)], name) for name in names))
    link = await open_link(peer)
    taps = []
    for number, name in enumerate(names):
        one = Tap(link, number, 20, 1_000)
        one.after_frame = one.credit_everything
        taps.append(await one.start(topic=name))
    await wait_until(lambda: all(one.position == 50 for one in taps), 20)
    expected = [b"%d" % n * 100 for n in range(50)]
    assert all(one.payloads == expected for one in taps)
