"""Delivery: exactly once and in order, from memory and from disk."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from pubsub.config import KIB, Limits, PeerSettings, StorageSettings
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_batch
from tests.integration.peer.grouping import SECONDS, TOPIC, OpenPeer
from tests.integration.peer.tapping import WIDE, OpenLink, Tap, count_reads, publish, tap
from tests.waiting import wait_until


@pytest.mark.parametrize("seed", range(3))
async def test_changing_between_disk_and_memory_neither_skips_nor_repeats(
    open_peer: OpenPeer, open_link: OpenLink, seed: int
) -> None:
    draw = random.Random(seed)
    peer = await open_peer(
        peer_settings=PeerSettings(tail_bytes=20 * KIB, tails_bytes=30 * KIB),
        storage_settings=StorageSettings(read_bytes=8 * KIB, read_messages=40),
        limits=Limits(batch_messages=20, batch_bytes=4 * KIB, write_buffer_bytes=16 * KIB),
    )
    total = 1_000
    payloads = [
        b"%06d" % n + bytes(draw.choice((0, 0, 10, 100, 1_000, 3_000, 15_000 * (n % 50 == 0))))
        for n in range(total)
    ]
    published = 0

    async def publish_some() -> None:
        nonlocal published
        count = draw.choice((1, 1, 5, 60))
        batch = payloads[published : published + count]
        published += len(batch)
        keys = [draw.choice((None, "key")) for _ in batch] if draw.random() < 0.3 else None
        await publish(peer, batch, keys=keys)

    taps: list[Tap] = []

    async def subscribe_at(start: int) -> None:
        one = Tap(
            links[len(taps) % 3],
            len(taps) + 1,
            draw.choice((1, 3, 50, 5_000)),
            draw.choice((100, 4_000, 100_000)),
        )
        give_back = draw.choice((1.0, 0.5, 0.1))

        def maybe_credit(batch: m.Batch) -> None:
            if draw.random() < give_back or one.outstanding >= one._window[0] or one._bytes <= 0:
                one.credit_everything()

        one.after_frame = maybe_credit
        taps.append(await one.start(start=start))

    links = [await open_link(peer) for _ in range(3)]
    starts: list[int] = []
    while published < 300:
        await publish_some()
    for _ in range(12):
        starts.append(draw.choice((0, draw.randrange(published), published)))
        await subscribe_at(starts[-1])
        for _ in range(draw.randint(0, 6)):
            await publish_some()
    while published < total:
        await asyncio.gather(*(publish_some() for _ in range(draw.randint(1, 4))))

    def caught_up() -> bool:
        for one in taps:  # whoever keeps credit back for long gives it now
            if one.position < total and one.outstanding:
                one.credit_everything()
        return all(one.position == total for one in taps)

    await wait_until(caught_up, 20)
    for one, start in zip(taps, starts, strict=True):
        assert one.payloads == payloads[start:]


async def test_live_subscribers_are_fed_from_memory_alone_even_a_commit_larger_than_the_tail(
    open_peer: OpenPeer, open_link: OpenLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer(peer_settings=PeerSettings(tail_bytes=10 * KIB, tails_bytes=10 * KIB))
    live = await tap(await open_link(peer))
    reads = count_reads(peer, monkeypatch)
    for _ in range(5):
        await publish(peer, [bytes(1_000)] * 500)
    await wait_until(lambda: live.position == 2_500)
    assert reads == []
    assert peer._node.deliveries._budget.used_bytes == 0  # all have taken it


async def test_a_subscriber_that_had_no_credit_goes_on_from_memory_if_that_still_has_it(
    open_peer: OpenPeer, open_link: OpenLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer()
    link = await open_link(peer)
    slow, live = await tap(link, 1, messages=5), await tap(link, 2)
    reads = count_reads(peer, monkeypatch)
    for n in range(10):
        await publish(peer, [b"%d" % n] * 3)
    await wait_until(lambda: live.position == 30 and slow.position == 5)
    slow.after_frame = slow.credit_everything
    slow.credit_everything()
    await wait_until(lambda: slow.position == 30)
    assert reads == []
    assert slow.payloads == live.payloads


async def test_a_batch_is_encoded_once_for_all_its_readers(
    open_peer: OpenPeer, open_link: OpenLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer()
    encoded: list[int] = []

    def counting(batch: m.Batch) -> bytes:
        encoded.append(batch.first_offset)
        return encode_batch(batch)

    for module in ("tail", "delivery"):
        monkeypatch.setattr(f"pubsub.peer.{module}.encode_batch", counting)
    links = [await open_link(peer) for _ in range(3)]
    taps = [await tap(links[n % 3], n) for n in range(30)]
    for _ in range(10):
        await publish(peer, [b"x" * 100] * 7)
    await wait_until(lambda: all(one.position == 70 for one in taps))
    assert encoded == list(range(0, 70, 7))


async def test_holes_that_compaction_left_are_passed_over(open_peer: OpenPeer, open_link: OpenLink) -> None:
    peer = await open_peer()
    await publish(peer, [b"%d" % n for n in range(20)])
    store = peer._node.store
    await store.change_file(
        lambda c: c.exec_driver_sql("DELETE FROM messages WHERE offset IN (3, 4, 18, 19)").close()
    )
    frames: list[m.Batch] = []
    link = await open_link(peer)
    link.streams[1] = lambda frame: frames.append(frame.batch) if isinstance(frame, m.Deliver) else None
    await link.request(
        m.Subscribe(
            id=link.next_id(), subscription=1, topic=TOPIC, start=1, window_messages=WIDE, window_bytes=WIDE
        ),
        SECONDS,
    )
    await wait_until(lambda: frames)
    await publish(peer, [b"20"])
    await wait_until(lambda: len(frames) == 2)
    kept = [1, 2, *range(5, 18)]
    assert (frames[0].offsets, frames[0].payloads) == (kept, [b"%d" % n for n in kept])
    assert (frames[1].first_offset, frames[1].offsets, frames[1].payloads) == (20, None, [b"20"])


async def test_a_query_at_the_end_goes_on_with_what_is_committed_while_it_reads(
    open_peer: OpenPeer, open_link: OpenLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer()
    await publish(peer, [b"old"] * 3)
    store = peer._node.store
    read = store.read

    async def read_then_commit(*arguments: Any) -> Any:
        batch = await read(*arguments)
        await publish(peer, [b"new"])
        return batch

    monkeypatch.setattr(store, "read", read_then_commit)
    link = await open_link(peer)
    result = await link.request(m.Query(id=link.next_id(), topic=TOPIC, start=3, limit=10), SECONDS)
    assert isinstance(result, m.QueryResult)
    assert (result.batch, result.position) == (None, 3)
