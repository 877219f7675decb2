"""Publishing on conditions: only at an offset, only all at once, only in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import pubsub
from pubsub.config import Limits
from pubsub.model import NewMessage
from tests.docs.plain_client import PlainClient
from tests.integration.client.conftest import NOBODY, make_topic
from tests.proxy import FaultyProxy
from tests.waiting import wait_until


async def stored(peer: pubsub.Peer, topic: str = "a.b") -> list[bytes | None]:
    return [message.payload for message in await peer.query(topic, limit=10**6)]


# Only at an offset


async def test_a_message_is_stored_at_the_offset_expected_or_not_at_all(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    for publisher, offset in ((client, 0), (peer, 1), (client, 2)):
        assert await publisher.publish("a.b", b"%d" % offset, expect_offset=offset) == offset
    for publisher in (client, peer):
        for expected in (0, 2, 4, 2**62):
            with pytest.raises(pubsub.WrongOffsetError, match="the log is at offset 3") as caught:
                await publisher.publish("a.b", b"no", expect_offset=expected)
            assert caught.value.data["next_offset"] == 3
    assert await stored(peer) == [b"0", b"1", b"2"]


async def test_of_many_who_expect_the_same_offset_one_succeeds(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as one, pubsub.Client(peer.address) as two:
        results = await asyncio.gather(
            *(
                publisher.publish("a.b", b"%d" % n, expect_offset=0)
                for n, publisher in enumerate([one, two, peer] * 20)
            ),
            return_exceptions=True,
        )
    assert [result for result in results if not isinstance(result, pubsub.WrongOffsetError)] == [0]
    assert len(await stored(peer)) == 1


async def test_a_refusal_fails_nothing_that_was_published_behind_it(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    calls = []
    for n in range(300):
        expect = 10**6 if n % 10 == 5 else None
        calls.append(asyncio.create_task(client.publish("a.b", b"%d" % n, expect_offset=expect)))
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [n for n, result in enumerate(results) if isinstance(result, pubsub.WrongOffsetError)]
    assert refused == list(range(5, 300, 10))
    assert await stored(peer) == [b"%d" % n for n in range(300) if n % 10 != 5]
    assert [result for n, result in enumerate(results) if n % 10 != 5] == list(range(270))


async def test_a_lost_acknowledgement_of_a_stored_one_is_a_success(peer: pubsub.Peer) -> None:
    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        peer._node.address = proxy.address
        assert await client.publish("a.b", b"0") == 0
        proxy.swallow_answers = True
        publishing = asyncio.create_task(client.publish("a.b", b"1", expect_offset=1))

        async def is_stored() -> bool:
            return len(await stored(peer)) == 2

        await wait_until(is_stored)
        assert await peer.publish("a.b", b"2") == 2
        proxy.swallow_answers = False
        proxy.cut()
        assert await publishing == 1
        with pytest.raises(pubsub.WrongOffsetError):
            await client.publish("a.b", b"no", expect_offset=1)


async def test_a_known_message_id_is_answered_before_the_offset_is_looked_at(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    """So that an application that starts anew may try the same again, and learn that it succeeded."""
    for publisher in (client, peer, client):
        assert await publisher.publish("a.b", b"x", message_id="x", expect_offset=0) == 0
    with pytest.raises(pubsub.WrongOffsetError):
        await client.publish("a.b", b"y", message_id="y", expect_offset=0)
    assert await client.publish("a.b", b"y", message_id="y", expect_offset=1) == 1


@pytest.mark.parametrize("expected", [-1, -5, 2**63, pytest.param(10**5000, id="huge"), True, "3", 1.0])
async def test_what_is_no_offset_is_refused(
    peer: pubsub.Peer, client: pubsub.Client, expected: object
) -> None:
    for publisher in (client, peer):
        with pytest.raises(pubsub.InvalidRequestError, match="expected offset"):
            await publisher.publish("a.b", b"x", expect_offset=expected)  # type: ignore[arg-type]
        with pytest.raises(pubsub.InvalidRequestError, match="expected offset"):
            await publisher.publish_many("a.b", [b"x"], atomic=True, expect_offset=expected)  # type: ignore[arg-type]
    assert await stored(peer) == []


async def test_a_batch_expects_an_offset_only_when_it_is_atomic(client: pubsub.Client) -> None:
    with pytest.raises(pubsub.InvalidRequestError, match="atomic=True"):
        await client.publish_many("a.b", [b"x"], expect_offset=0)


# Only all at once


async def test_an_atomic_batch_is_one_commit_and_comes_to_subscribers_as_a_whole(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    commits: list[int] = []
    deliver = peer._node.store.on_append

    def noted(topic, appended):  # type: ignore[no-untyped-def]
        commits.append(len(appended.payloads))
        deliver(topic, appended)

    peer._node.store.on_append = noted
    payloads = [b"%d" % n for n in range(10_000)]
    async with client.subscribe("a.b") as messages:
        assert await client.publish_many("a.b", payloads, atomic=True) == list(range(10_000))
        assert commits == [10_000]
        received = [(await anext(messages)).payload for _ in payloads]
    assert received == payloads


async def test_atomic_batches_of_several_publishers_are_never_mixed(peer: pubsub.Peer) -> None:
    async def publisher(client: pubsub.Client, number: int) -> None:
        for part in range(20):
            await client.publish_many("a.b", [b"%d.%d" % (number, part)] * 7, atomic=True)

    async with pubsub.Client(peer.address) as one, pubsub.Client(peer.address) as two:
        await asyncio.gather(*(publisher(client, n) for n, client in enumerate([one, two] * 5)))
    payloads = await stored(peer)
    assert len(payloads) == 10 * 20 * 7
    for start in range(0, len(payloads), 7):
        assert len(set(payloads[start : start + 7])) == 1


async def test_an_atomic_batch_may_expect_an_offset(peer: pubsub.Peer, client: pubsub.Client) -> None:
    assert await client.publish_many("a.b", [b"0", b"1"], atomic=True, expect_offset=0) == [0, 1]
    with pytest.raises(pubsub.WrongOffsetError) as caught:
        await client.publish_many("a.b", [b"2", b"3"], atomic=True, expect_offset=1)
    assert caught.value.data["next_offset"] == 2
    assert list(caught.value.acknowledged) == []
    assert await peer.publish_many("a.b", iter([b"2", b"3"]), atomic=True, expect_offset=2) == [2, 3]
    assert await stored(peer) == [b"0", b"1", b"2", b"3"]


async def test_an_atomic_batch_takes_async_iterables_and_messages_of_their_own(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    async def messages():  # type: ignore[no-untyped-def]
        yield "text"
        yield NewMessage(b"keyed", key="k", headers={"h": "1"}, message_id="m")

    assert await client.publish_many("a.b", messages(), atomic=True, key="d") == [0, 1]
    assert await client.publish_many("a.b", messages(), atomic=True, key="d") == [2, 1]
    assert [(m.key, m.payload) for m in await client.query("a.b")] == [
        ("d", b"text"),
        ("k", b"keyed"),
        ("d", b"text"),
    ]
    assert await client.publish_many("a.b", [], atomic=True) == []


async def test_an_atomic_batch_that_does_not_fit_stores_nothing_and_names_the_limit(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    taken = 0

    def endless(payload: bytes):  # type: ignore[no-untyped-def]
        nonlocal taken
        while True:
            taken += 1
            yield payload

    async def endless_async(payload: bytes):  # type: ignore[no-untyped-def]
        for message in endless(payload):
            yield message

    for many in (endless(b""), endless_async(b"")):
        with pytest.raises(pubsub.InvalidRequestError, match="at most 10000 messages; nothing"):
            await client.publish_many("a.b", many, atomic=True)
    for large in (endless(b"x" * 1_000_000), endless_async(b"x" * 1_000_000)):
        with pytest.raises(pubsub.InvalidRequestError, match=r"at most 16777216 bytes.* nothing"):
            await client.publish_many("a.b", large, atomic=True)
    assert taken < 2 * (10_002 + 20)
    with pytest.raises(pubsub.MessageTooLargeError) as caught:
        await client.publish_many("a.b", [b"0", b"x" * 1_048_577], atomic=True)
    assert caught.value.data["index"] == 1
    # what fits by its payloads, but not with what msgpack adds
    with pytest.raises(pubsub.InvalidRequestError, match=r"takes 167\d+ bytes in a frame.* at most 16777216"):
        await client.publish_many("a.b", [b"x" * 16_777] * 1000, atomic=True)
    assert await client.publish_many("a.b", [b"x" * 16_700] * 1000, atomic=True) == list(range(1000))
    assert await client.publish("a.b", b"goes on") == 1000


async def test_an_owner_with_a_smaller_frame_is_not_sent_what_it_cannot_take(tmp_path: Path) -> None:
    small = Limits(frame_bytes=200_000, message_bytes=100_000)
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY, limits=small) as peer:
        await make_topic(peer, "a.b")
        async with pubsub.Client(peer.address) as client:
            with pytest.raises(pubsub.InvalidRequestError, match="at most 200000"):
                await client.publish_many("a.b", [b"x" * 1000] * 300, atomic=True)
            assert await client.publish_many("a.b", [b"x" * 1000] * 100, atomic=True) == list(range(100))
            assert await client.publish("a.b", b"y") == 100


# Only in order


@pytest.fixture
async def plain(peer: pubsub.Peer) -> AsyncIterator[PlainClient]:
    host, port = peer.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = PlainClient(reader, writer)
    await client.hello()
    yield client
    writer.close()
    await writer.wait_closed()


async def test_a_producer_out_of_order_gets_an_error_and_stores_nothing(
    peer: pubsub.Peer, plain: PlainClient
) -> None:
    topic_id = peer._node.store.topics["a.b"].id

    async def publish(sequence: int, *payloads: bytes) -> list[object]:
        return (await plain.ask(10, "a.b", topic_id, 7, sequence, None, None, list(payloads)))[2:5]

    reply = await publish(10, b"no")  # 10 first, ...
    assert reply[0] == "sequence_out_of_order"
    assert reply[2] == {"expected": 0}
    assert (await publish(4, b"no"))[0] == "sequence_out_of_order"  # ... then 4
    assert await publish(0, *[b"x"] * 10) == [0, False, None]
    assert await publish(10, b"10") == [10, False, None]
    for sequence, count in ((4, 1), (12, 1), (0, 11), (9, 2), (5, 6), (2**62 - 1, 1)):
        reply = await publish(sequence, *[b"no"] * count)
        assert reply[0] == "sequence_out_of_order", (sequence, count)
        assert reply[2] == {"expected": 11}
    assert await publish(10, b"10") == [10, True, None]
    assert await stored(peer) == [*[b"x"] * 10, b"10"]


async def test_frames_out_of_order_within_one_commit_are_refused_each(
    peer: pubsub.Peer, plain: PlainClient
) -> None:
    topic_id = peer._node.store.topics["a.b"].id
    for sequence in (0, 10, 4, 1, 3, 2):
        plain.send(10, plain.next_id(), "a.b", topic_id, 9, sequence, None, None, [b"%d" % sequence])
    replies = [await plain.receive() for _ in range(6)]
    assert [reply[0] for reply in replies] == [11, 3, 3, 11, 3, 11]
    assert await stored(peer) == [b"0", b"1", b"2"]


async def test_conditions_out_of_their_range_are_refused_by_the_owner(
    peer: pubsub.Peer, plain: PlainClient
) -> None:
    topic_id = peer._node.store.topics["a.b"].id
    for conditions in (
        *([-2], [-(2**63)], [2**63]),
        *([-1, None, -1], [-1, None, 0, -1], [-1, None, 5, 5], [-1, None, 2**62], [-1, None, 0, 2**62]),
        *([3, None, 0, 1000], [-1, ["id"], 0, 1000]),
    ):
        reply = await plain.ask(10, "a.b", topic_id, 0, 0, None, None, [b"x"], *conditions)
        assert reply[2] == "invalid_request", conditions
    assert await stored(peer) == []
    assert peer._node.schedule.count(peer._node.store.topics["a.b"]) == 0
