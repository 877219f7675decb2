"""Delivery: exactly once and in order, within the window, from memory and from disk, at nobody else's cost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import pubsub
from pubsub.config import KIB, MIB, Limits, PeerSettings, StorageSettings
from pubsub.errors import InvalidRequestError
from pubsub.model import parse_address
from pubsub.net.link import Link, connect
from pubsub.protocol import messages as m
from pubsub.protocol.batch import batch_bytes, message_sizes
from pubsub.protocol.codec import encode_batch, encode_frame
from pubsub.protocol.handshake import hello
from tests.integration.storage.stores import append, copy_of
from tests.waiting import wait_until

SECONDS = 10.0
WIDE = 1 << 40
OpenPeer = Callable[..., Awaitable[pubsub.Peer]]
OpenLink = Callable[..., Awaitable[Link]]


@pytest_asyncio.fixture
async def open_peer(tmp_path: Path) -> AsyncIterator[OpenPeer]:
    """Opens the peer alice, without an index, with the topics given: names, their ids counted from 1."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_it(*topics: str, **settings: Any) -> pubsub.Peer:
            peer = pubsub.Peer("alice", data=tmp_path / "alice", index="127.0.0.1:1", **settings)
            await stack.enter_async_context(peer)
            for topic_id, name in enumerate(topics or ("t",), 1):
                await peer._node.create_copy(copy_of(topic_id, name))
            return peer

        yield open_it


@pytest_asyncio.fixture
async def open_link() -> AsyncIterator[OpenLink]:
    """Opens raw links to a peer; all are gone at the end."""
    links: list[Link] = []

    async def open_it(peer: pubsub.Peer) -> Link:
        link = await connect(parse_address(peer.address), hello("client", "test"), Limits())
        links.append(link)
        return link

    yield open_it
    for link in links:
        link.abort()
        await link.closed()


class Tap:
    """A subscription frame by frame. It checks that the window is kept and that offsets are dense as they come."""

    def __init__(self, link: Link, number: int, window_messages: int, window_bytes: int) -> None:
        self.link = link
        self.number = number
        self.position = -1
        self.payloads: list[bytes | None] = []
        self.frames: list[m.Batch] = []
        self.ended: m.Ended | None = None
        self.after_frame: Callable[[m.Batch], None] = lambda batch: None
        self._messages, self._bytes = window_messages, window_bytes
        self._window = (window_messages, window_bytes)
        link.streams[number] = self._take

    async def start(self, topic: str = "t", start: int = m.EARLIEST, topic_id: int = 0) -> Tap:
        messages, size_bytes = self._window
        subscribed = await self.link.request(
            m.Subscribe(
                id=self.link.next_id(),
                subscription=self.number,
                topic=topic,
                topic_id=topic_id,
                start=start,
                window_messages=messages,
                window_bytes=size_bytes,
            ),
            SECONDS,
        )
        assert isinstance(subscribed, m.Subscribed)
        if self.position < 0:
            self.position = subscribed.position
        return self

    def _take(self, frame: m.Deliver | m.Ended) -> None:
        if isinstance(frame, m.Ended):
            self.ended = frame
            return
        batch = frame.batch
        count, size_bytes = len(batch.payloads), batch_bytes(batch)
        idle = self._messages == self._window[0]
        assert count <= self._messages
        assert size_bytes <= self._bytes or (idle and count == 1), "more than the window allows"
        self._messages -= count
        self._bytes -= size_bytes
        if self.position < 0:
            self.position = batch.first_offset
        assert (batch.first_offset, batch.offsets) == (self.position, None), "skipped or repeated"
        self.position += count
        self.payloads += batch.payloads
        self.frames.append(batch)
        self.after_frame(batch)

    @property
    def outstanding(self) -> int:
        return self._window[0] - self._messages

    def credit(self, messages: int, size_bytes: int) -> None:
        self._messages += messages
        self._bytes += size_bytes
        self.link.send(encode_frame(m.Credit(self.number, messages, size_bytes)))

    def credit_everything(self, _: m.Batch | None = None) -> None:
        """Give back all that is outstanding."""
        messages, size_bytes = self._window
        self.credit(messages - self._messages, size_bytes - self._bytes)


async def tap(link: Link, number: int = 1, messages: int = WIDE, size_bytes: int = WIDE, **start: Any) -> Tap:
    return await Tap(link, number, messages, size_bytes).start(**start)


async def publish(peer: pubsub.Peer, payloads: list[bytes], topic: str = "t", keys: Any = None) -> int:
    store = peer._node.store
    return await append(store, store.topic(topic), payloads, keys=keys)


def count_reads(peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets from which the disk is read, from now on."""
    starts: list[int] = []
    read = peer._node.store.read

    def counting(topic: Any, start: int, *bounds: Any) -> Any:
        starts.append(start)
        return read(topic, start, *bounds)

    monkeypatch.setattr(peer._node.store, "read", counting)
    return starts


def server_connections(peer: pubsub.Peer) -> Any:
    return peer._server.connections


# Between disk and memory


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
            id=link.next_id(), subscription=1, topic="t", start=1, window_messages=WIDE, window_bytes=WIDE
        ),
        SECONDS,
    )
    await wait_until(lambda: frames)
    await publish(peer, [b"20"])
    await wait_until(lambda: len(frames) == 2)
    kept = [1, 2, *range(5, 18)]
    assert (frames[0].offsets, frames[0].payloads) == (kept, [b"%d" % n for n in kept])
    assert (frames[1].first_offset, frames[1].offsets, frames[1].payloads) == (20, None, [b"20"])


# The window


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


# At nobody else's cost


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
        c for c in server_connections(peer) if c.greeting is not None and c.greeting.name == "test"
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
                    topic="t",
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


# Ends


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
    peer = await open_peer("t", "other")
    await publish(peer, [bytes(1_000)] * 2_000)
    link = await open_link(peer)
    one = await tap(link, 1, messages=10 if behind else WIDE)
    other = await tap(link, 2, topic="other")
    await wait_until(lambda: one.position >= 10)
    await peer._node.drop_copy(1)
    await wait_until(lambda: one.ended)
    assert one.ended is not None
    assert (one.ended.code, one.ended.message) == ("topic_not_found", "topic t was deleted")
    await publish(peer, [b"x"], "other")
    await wait_until(lambda: other.payloads)
    await peer._node.create_copy(copy_of(3, "t"))
    again = await tap(link, 1)  # the number is free, and the topic is another one
    await publish(peer, [b"new"])
    await wait_until(lambda: again.payloads == [b"new"])


async def test_a_topic_that_is_set_aside_ends_its_subscriptions_too(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    peer = await open_peer()
    one = await tap(await open_link(peer))
    await peer._node.set_aside(peer._node.store.topic("t"), "its name belongs to another")
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
    assert "reading t for" in caplog.text
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
    await wait_until(lambda: not any("read t for" in task.get_name() for task in asyncio.all_tasks()))


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
    result = await link.request(m.Query(id=link.next_id(), topic="t", start=3, limit=10), SECONDS)
    assert isinstance(result, m.QueryResult)
    assert (result.batch, result.position) == (None, 3)
