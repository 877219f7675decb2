import asyncio
from typing import Any

import pytest

from pubsub.errors import (
    ConnectionLostError,
    InvalidNameError,
    PeerUnavailableError,
    PubsubError,
    TopicNotFoundError,
    TopicOfflineError,
)
from pubsub.index import IndexServer
from pubsub.index import relay as relay_module
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from tests.integration.index.asking import ask, create
from tests.integration.index.conftest import Connect, StartIndex, StartPeer
from tests.waiting import wait_until


class Publisher:
    """Publishes through an index without waiting, and keeps the replies in the order in which they came."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.replies: list[tuple[int, m.Frame | PubsubError]] = []

    def publish(self, topic: str, topic_id: int, sequence: int, payload: bytes = b"x") -> None:
        request = self.link.next_id()
        frame = m.Publish(request, topic, topic_id, 42, sequence, ["k"], ['{"a":"b"}'], [payload])
        self.link.call(request, encode_frame(frame), lambda reply: self.replies.append((sequence, reply)))

    async def answered(self, count: int) -> list[tuple[int, Any]]:
        await wait_until(lambda: len(self.replies) >= count, description=f"{count} replies")
        return self.replies


async def test_relayed_publishes_keep_their_order_and_get_their_own_replies(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    topic = await create(link, "t")
    publisher = Publisher(link)
    for sequence in range(500):
        publisher.publish("t", topic.id, sequence)
    replies = await publisher.answered(500)
    assert [frame.sequence for frame in alice.published] == list(range(500))
    assert [(sequence, reply.first_offset) for sequence, reply in replies] == [(n, n) for n in range(500)]
    first = alice.published[0]
    assert (first.topic, first.topic_id, first.producer) == ("t", topic.id, 42)
    assert (first.keys, first.headers, first.payloads) == (["k"], ['{"a":"b"}'], [b"x"])


async def test_a_publish_does_not_wait_for_the_reply_to_the_one_before(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    topic = await create(link, "t")
    alice.gate.clear()  # no publish is answered
    publisher = Publisher(link)
    for sequence in range(10):
        publisher.publish("t", topic.id, sequence)
    await wait_until(lambda: len(alice.published) == 10)
    assert publisher.replies == []


async def test_two_clients_that_relay_at_once_keep_their_replies_apart(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    link = await open_link(index)
    topic = await create(link, "t")
    publishers = [Publisher(await open_link(index)) for _ in range(5)]
    for sequence in range(100):
        for number, publisher in enumerate(publishers):
            publisher.publish("t", topic.id, 1000 * number + sequence)
    for number, publisher in enumerate(publishers):
        replies = await publisher.answered(100)
        assert [reply.first_offset for _, reply in replies] == [1000 * number + n for n in range(100)]


async def test_what_the_owner_refuses_is_passed_on(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    link = await open_link(index)
    await create(link, "t")
    publisher = Publisher(link)
    publisher.publish("t", 999, 0)
    ((_, error),) = await publisher.answered(1)
    assert isinstance(error, TopicNotFoundError)
    assert error.message == "no topic t here"


async def test_a_topic_whose_owner_is_away_holds_up_no_other_one(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    bob, link = await start_peer("bob", index), await open_link(index)
    here, away = await create(link, "here", on="alice"), await create(link, "away", on="bob")
    await bob.leave()
    publisher = Publisher(link)
    for sequence in range(3):
        publisher.publish("away", away.id, sequence)
        publisher.publish("here", here.id, 10 + sequence)
        publisher.publish("nowhere", 5, 20 + sequence)
        publisher.publish("not a topic", 5, 30 + sequence)
    replies = dict(await publisher.answered(12))
    for sequence in range(3):
        assert isinstance(replies[sequence], TopicOfflineError)
        assert replies[sequence].message == "topic away is offline: its owner bob is away"
        assert isinstance(replies[10 + sequence], m.Published)
        assert isinstance(replies[20 + sequence], TopicNotFoundError)
        assert isinstance(replies[30 + sequence], InvalidNameError)


async def test_publishes_under_way_to_an_owner_that_dies_are_said_to_be_lost_and_the_next_find_it_again(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    before, link = await start_peer("alice", index), await open_link(index)
    topic = await create(link, "t")
    before.gate.clear()
    publisher = Publisher(link)
    for sequence in range(3):
        publisher.publish("t", topic.id, sequence)
    await wait_until(lambda: len(before.published) == 3)
    await before.close()
    for _, error in await publisher.answered(3):
        assert isinstance(error, ConnectionLostError)  # whether they are stored is unknown
        assert "the index lost the owner alice of topic t" in error.message
    again = await start_peer("alice", index, node=before.node, starts=2)
    again.copies = dict(before.copies)
    publisher.replies.clear()
    publisher.publish("t", topic.id, 0)
    ((_, reply),) = await publisher.answered(1)
    assert isinstance(reply, m.Published)


async def test_an_owner_that_cannot_be_reached_is_said_to_be_unavailable(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    topic = await create(link, "t")
    await alice.close()
    publisher = Publisher(link)
    for sequence in range(2):
        publisher.publish("t", topic.id, sequence)
    for _, error in await publisher.answered(2):
        assert isinstance(error, PeerUnavailableError)
        assert error.retriable


async def test_a_client_that_publishes_faster_than_the_owner_answers_is_read_no_further(
    index: IndexServer,
    start_peer: StartPeer,
    open_link: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "CONNECTION_BYTES", 100_000)
    monkeypatch.setattr(relay_module, "_RESUME_BYTES", 50_000)
    alice, link = await start_peer("alice", index), await open_link(index)
    topic = await create(link, "t")
    alice.gate.clear()
    publisher = Publisher(await open_link(index))
    for sequence in range(1000):
        publisher.publish("t", topic.id, sequence, bytes(10_000))
    held = await wait_until(lambda: [c for c in index._server.connections if "relay" in c._read_holds])
    (state,) = index._relay._publishers.values()
    assert state.connection in held
    # One read of the socket may bring more than one frame beyond the bound, but not all of them.
    assert state.under_way_bytes < 5_000_000
    alice.gate.set()
    (connection,) = [c for c in alice.server.connections if c.greeting and c.greeting.role == "index"]
    for frame in list(alice.published):  # now it answers those too
        connection.send_frame(m.Published(frame.id, frame.sequence))
    replies = await publisher.answered(1000)
    assert [sequence for sequence, _ in replies] == list(range(1000))
    assert state.under_way_bytes == 0


async def test_a_client_that_goes_away_leaves_nothing_behind(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    topic = await create(link, "t")
    alice.gate.clear()
    publisher = Publisher(await open_link(index))
    for sequence in range(10):
        publisher.publish("t", topic.id, sequence)
    await wait_until(lambda: len(alice.published) == 10)
    publisher.link.abort()
    await wait_until(lambda: not index._relay._publishers)
    (connection,) = [c for c in alice.server.connections if c.greeting and c.greeting.role == "index"]
    for frame in alice.published:
        connection.send_frame(m.Published(frame.id, 0))
    alice.gate.set()
    other = Publisher(link)
    other.publish("t", topic.id, 10)
    await other.answered(1)


async def test_a_query_is_relayed(index: IndexServer, start_peer: StartPeer, open_link: Connect) -> None:
    await start_peer("alice", index)
    link = await open_link(index)
    topic = await create(link, "t")
    result = await ask(link, m.Query, topic="t", topic_id=topic.id, limit=2)
    assert (result.topic_id, result.position, result.next_offset) == (topic.id, 4, 4)
    assert result.batch.payloads == [b"x", b"x"]
    with pytest.raises(TopicNotFoundError):
        await ask(link, m.Query, topic="nowhere", limit=1)


async def test_a_query_to_an_owner_that_does_not_answer_fails_retriably(
    start_index: StartIndex,
    start_peer: StartPeer,
    open_link: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "QUERY_SECONDS", 0.2)
    index = await start_index()
    alice, link = await start_peer("alice", index), await open_link(index)
    await create(link, "t")
    alice.gate.clear()
    with pytest.raises(PeerUnavailableError, match="the owner alice of topic t does not answer the index"):
        await ask(link, m.Query, topic="t", limit=1)
    asking = asyncio.create_task(ask(link, m.Query, topic="t", limit=1))
    await alice.close()
    with pytest.raises(PeerUnavailableError):
        await asking
