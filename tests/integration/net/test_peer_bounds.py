"""A real peer, spoken to frame by frame: what bounds a frame, a batch and a subscription."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import pubsub
from pubsub.config import MIB, Limits
from pubsub.errors import InvalidRequestError
from pubsub.model import parse_address
from pubsub.net.link import Link, connect
from pubsub.peer.tail import cut
from pubsub.protocol import messages as m
from pubsub.protocol.batch import slice_batch
from pubsub.protocol.codec import encode_frame
from tests.integration.net.conftest import GREETING
from tests.waiting import wait_until

TOPIC = "a.b"
SECONDS = 20.0


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[pubsub.Peer]:
    async with pubsub.Peer("alice", data=tmp_path / "alice", index="127.0.0.1:1") as peer:
        await peer._node.holding.take(
            m.CopyState(id=1, topic=TOPIC, role="owner", owner="alice", epoch=1, created_us=1)
        )
        yield peer


@pytest.fixture
async def link(peer: pubsub.Peer) -> AsyncIterator[Link]:
    link = await connect(parse_address(peer.address), GREETING, Limits())
    yield link
    link.abort()
    await link.closed()


def publish(link: Link, payloads: list[bytes | None], sequence: int = 0) -> m.Publish:
    return m.Publish(link.next_id(), TOPIC, 0, 77, sequence, None, None, payloads)


def subscribe(link: Link, start: int) -> m.Subscribe:
    return m.Subscribe(
        id=link.next_id(),
        subscription=9,
        topic=TOPIC,
        start=start,
        window_messages=5000,
        window_bytes=64 * MIB,
    )


async def test_large_messages_behind_many_small_ones_come_in_frames_that_fit(link: Link):
    sizes = [10] * 1900 + [MIB] * 30
    stored = 0
    for start, stop in ((0, 1900), *((n, n + 5) for n in range(1900, 1930, 5))):
        await link.request(publish(link, [b"x" * size for size in sizes[start:stop]], stored), SECONDS)
        stored = stop

    queried: list[int] = []
    while len(queried) < stored:
        query = m.Query(id=link.next_id(), topic=TOPIC, start=len(queried), limit=2000)
        result = await link.request(query, SECONDS)  # a frame over the limit would close the link
        assert isinstance(result, m.QueryResult)
        assert result.batch is not None
        queried += [len(payload or b"") for payload in result.batch.payloads]
        assert result.position == len(queried)
    assert queried == sizes

    delivered: list[int] = []
    link.streams[9] = lambda frame: delivered.extend(
        len(payload or b"") for payload in (frame.batch.payloads if isinstance(frame, m.Deliver) else [])
    )
    await link.request(subscribe(link, m.EARLIEST), SECONDS)
    await wait_until(lambda: len(delivered) == stored or not link.open)
    assert delivered == sizes


async def test_a_batch_of_too_many_messages_is_refused_whole(link: Link):
    with pytest.raises(InvalidRequestError, match="at most 10000 messages, not 10001"):
        await link.request(publish(link, [b""] * 10_001), SECONDS)
    assert await link.request(publish(link, [b""] * 10_000), SECONDS) == m.Published(2, 0)


@pytest.mark.parametrize("start", [m.LATEST, m.EARLIEST, m.AT_TIME])
async def test_an_unsubscribe_right_behind_its_subscribe_ends_it(link: Link, peer: pubsub.Peer, start: int):
    came: list[m.Frame] = []
    link.streams[9] = came.append
    begun, ended = subscribe(link, start), m.Unsubscribe(link.next_id(), 9)
    link.call(begun.id, encode_frame(begun), lambda reply: None)
    assert await link.request(ended, SECONDS) == m.Done(ended.id)
    await link.request(publish(link, [b"x"]), SECONDS)
    await link.request(m.Status(link.next_id()), SECONDS)
    assert came == []
    assert peer._node.deliveries.count() == 0


@pytest.mark.parametrize("start", [m.LATEST, m.AT_TIME])
async def test_one_number_is_one_subscription_also_when_two_are_asked_for_at_once(
    link: Link, peer: pubsub.Peer, start: int
):
    replies: list[object] = []
    for _ in range(2):
        frame = subscribe(link, start)
        link.call(frame.id, encode_frame(frame), replies.append)
    await wait_until(lambda: len(replies) == 2)
    assert {type(reply) for reply in replies} == {m.Subscribed, InvalidRequestError}
    assert peer._node.deliveries.count() == 1


async def test_who_asks_for_more_than_fits_and_never_reads_costs_little(link: Link, peer: pubsub.Peer):
    await link.request(publish(link, [b"x" * MIB]), SECONDS)
    (connection,) = peer._server.connections
    link.hold_reading("test")
    for _ in range(64):
        query = m.Query(id=link.next_id(), topic=TOPIC, limit=1)
        link.call(query.id, encode_frame(query), lambda reply: None)
    await wait_until(lambda: not connection.writable)
    with contextlib.closing(await connect(parse_address(peer.address), GREETING, Limits())) as other:
        await other.request(m.Status(1), SECONDS)
    assert connection.unsent_bytes <= 2 * MIB + 1000
    link.release_reading("test")
    await wait_until(lambda: not link._pending)


def test_the_cut_of_uneven_messages_is_exact():
    sizes = [1] * 100 + [500] * 10 + [5000] + [1] * 10
    batch = m.Batch(7, None, 1, None, None, [b"x" * size for size in sizes])
    parts = list(cut(batch, 1000, 1000))
    assert [payload for part in parts for payload in part.payloads] == batch.payloads
    position = 0
    for part in parts:
        assert part == slice_batch(batch, position, position + len(part.payloads))
        assert sum(len(p or b"") for p in part.payloads) <= 2000 or len(part.payloads) == 1
        position += len(part.payloads)
