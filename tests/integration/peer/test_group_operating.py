"""Groups under retention, what operators do to them, and what is refused."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

import pubsub
from pubsub.config import Limits
from pubsub.errors import (
    GroupNotFoundError,
    InvalidNameError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    PubsubError,
    TopicNotFoundError,
)
from pubsub.protocol import messages as m
from tests.integration.peer.grouping import (
    AT_ONCE,
    ENTRIES,
    SECONDS,
    TOPIC,
    Member,
    OpenMember,
    OpenPeer,
    figures,
    info,
    kill,
    publish,
    retain,
    rows,
    subscribe,
)
from tests.waiting import wait_until


async def floor_is(peer: pubsub.Peer, offset: int) -> None:
    """Wait until it is on disk that everything below an offset is done, and nothing from there on."""
    await wait_until(lambda: peer._node.groups.floor(peer._node.store.topics[TOPIC]) == offset)


# Retention


async def test_the_lag_is_exact_after_retention_and_what_waits_is_gone(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(2, options=AT_ONCE)
    await publish(peer, 10)
    await member.has((0, 1), (1, 1))
    await member.settle("nack", (0, 1), delay_us=3_600_000_000)
    await wait_until(lambda: (2, 1) in member.got)
    await retain(peer, 5)
    assert await figures(peer) == (5, 2, 0, 0, 7)
    await floor_is(peer, 1)
    await member.settle("ack", (1, 1))
    await member.settle("nack", (2, 1), delay_us=0)  # it is not there any more
    await wait_until(lambda: len(member.got) == 5)
    assert member.got[3:] == [(5, 1), (6, 1)]
    assert await figures(peer) == (3, 2, 0, 0, 5)
    await floor_is(peer, 5)


async def test_the_floor_is_the_lowest_of_all_groups(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    topic = peer._node.store.topics[TOPIC]
    assert peer._node.groups.floor(topic) is None
    first = await (await open_member(peer)).join(group="first")
    second = await (await open_member(peer)).join(group="second")
    await publish(peer, 4)
    await first.has(*((n, 1) for n in range(4)))
    await second.has(*((n, 1) for n in range(4)))
    await first.settle("ack", (0, 1), (1, 1), (3, 1))
    await second.settle("ack", (0, 1))
    await floor_is(peer, 1)
    await second.settle("ack", (1, 1), (2, 1), (3, 1))
    await floor_is(peer, 2)


# Looking and changing


async def test_a_peek_shows_what_comes_next_and_changes_nothing(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await (await open_member(peer)).join(2)
    await publish(peer, 6)
    await member.has((0, 1), (1, 1))
    assert [message.offset for message in await peer.peek_group(TOPIC, "g", limit=3)] == [2, 3, 4]
    await member.leave()
    assert [message.offset for message in await peer.peek_group(TOPIC, "g", limit=3)] == [0, 1, 2]
    frame = m.PeekGroup(id=member.link.next_id(), topic=TOPIC, group="g", limit=9)
    reply = await member.link.request(frame, SECONDS)
    assert isinstance(reply, m.QueryResult)
    assert reply.batch is not None
    assert reply.batch.attempts == [1, 1, 0, 0, 0, 0]
    assert reply.batch.payloads == [b"%d" % n for n in range(6)]
    assert await figures(peer) == (6, 0, 0, 0, 6)


async def test_a_peek_shows_as_many_as_were_asked_for_however_few_a_read_brings(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(2)
    await publish(peer, 40)
    await member.has((0, 1), (1, 1))
    store = peer._node.store
    read = store.read

    async def few(topic: Any, start: int, limit: int, max_bytes: int | None = None) -> Any:
        return await read(topic, start, min(limit, 7), max_bytes)

    store.read = few  # type: ignore[method-assign]
    assert [message.offset for message in await peer.peek_group(TOPIC, "g", limit=30)] == list(range(2, 32))
    await member.leave()
    assert [message.offset for message in await peer.peek_group(TOPIC, "g", limit=30)] == list(range(30))
    assert [message.offset for message in await peer.peek_group(TOPIC, "g", limit=99)] == list(range(40))


async def test_a_reset_begins_anew_and_ends_every_old_delivery(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 4)
    await member.has(*((n, 1) for n in range(4)))
    await member.settle("ack", (0, 1), (1, 1))
    assert await peer.reset_group(TOPIC, "g", 1) == "group g of jobs goes on at offset 1"
    await wait_until(lambda: member.ended)
    assert member.ended is not None
    assert member.ended.code == "conflict"  # retriable: a client joins again
    assert await member.settle("ack", (2, 1)) == [2]
    assert await figures(peer) == (3, 0, 0, 0, 3)
    again = await Member(member.link).join()
    await again.has((1, 1), (2, 1), (3, 1))
    await peer.reset_group(TOPIC, "g", "latest")
    assert await figures(peer) == (0, 0, 0, 0, 0)
    with pytest.raises(OffsetOutOfRangeError):
        await peer.reset_group(TOPIC, "g", 5)


async def test_a_deleted_group_ends_its_members_and_may_be_made_anew(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 2)
    await member.has((0, 1), (1, 1))
    assert await peer.delete_group(TOPIC, "g") == "group g of jobs is deleted"
    await wait_until(lambda: member.ended)
    assert member.ended is not None
    assert member.ended.code == "group_not_found"
    assert await peer.groups(TOPIC) == []
    assert rows(peer, ENTRIES) == []
    with pytest.raises(GroupNotFoundError):
        await peer.group(TOPIC, "g")
    again = await (await open_member(peer)).join()
    await again.has((0, 1), (1, 1))


async def test_a_group_can_be_deleted_while_its_topic_is_dropped(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    run, is_stored, dropped = peer._node.store.run, asyncio.Event(), asyncio.Event()

    async def run_slowly(statements: Any) -> None:
        await run(statements)
        is_stored.set()
        await dropped.wait()

    monkeypatch.setattr(peer._node.store, "run", run_slowly)
    deleting = asyncio.create_task(peer.delete_group(TOPIC, "g"))
    await is_stored.wait()
    await peer._node.drop_copy(1)
    dropped.set()
    assert await deleting == "group g of jobs is deleted"
    await wait_until(lambda: member.ended)
    await wait_until(lambda: rows(peer, "SELECT * FROM groups") == [])


async def test_a_topic_of_which_the_last_group_was_deleted_has_none(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    topic = peer._node.store.topics[TOPIC]
    for group in ("g", "h"):
        await (await open_member(peer)).join(group=group)
    await peer.delete_group(TOPIC, "g")
    assert peer._node.groups.has_groups(topic)
    await peer.delete_group(TOPIC, "h")
    assert not peer._node.groups.has_groups(topic)


async def test_a_dropped_topic_ends_its_groups(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    await kill(peer, await open_member(peer), 1)
    member = await (await open_member(peer)).join()
    await publish(peer, 1)
    await wait_until(lambda: member.got)
    await peer._node.drop_copy(1)
    await wait_until(lambda: member.ended)
    assert member.ended is not None
    assert member.ended.code == "topic_not_found"
    await wait_until(lambda: rows(peer, "SELECT * FROM groups") == [])
    assert rows(peer, "SELECT * FROM group_messages") == []
    assert rows(peer, "SELECT * FROM dead_letters") == []
    assert len(await peer.query(f"{TOPIC}.dead")) == 1  # a topic of its own


# What cannot be


BAD_JOINS = [
    ({"group": "a.b"}, InvalidNameError),
    ({"group": ""}, InvalidNameError),
    ({"group": "x" * 65}, InvalidNameError),
    ({"max_in_flight": 0}, InvalidRequestError),
    ({"max_in_flight": -1}, InvalidRequestError),
    ({"max_in_flight": 10_001}, InvalidRequestError),
    ({"window_bytes": 0}, InvalidRequestError),
    ({"name": "x" * 201}, InvalidRequestError),
    ({"options": {"lease_seconds": -1}}, InvalidRequestError),
    ({"options": {"max_attempts": "many"}}, InvalidRequestError),
    ({"options": {"colour": "red"}}, InvalidRequestError),
    ({"start": 99}, OffsetOutOfRangeError),
    ({"start": -9}, OffsetOutOfRangeError),
    ({"topic": "none"}, TopicNotFoundError),
    ({"topic_id": 77}, TopicNotFoundError),
]


@pytest.mark.parametrize(("fields", "error"), BAD_JOINS, ids=str)
async def test_a_join_that_cannot_be_is_told_in_one_line_and_makes_nothing(
    open_peer: OpenPeer, open_member: OpenMember, fields: dict[str, Any], error: type[PubsubError]
):
    peer = await open_peer()
    member = await open_member(peer)
    with pytest.raises(error) as caught:
        await member.join(**fields)
    assert "\n" not in caught.value.message
    assert rows(peer, "SELECT * FROM groups") == []
    assert (await member.join()).joined is not None  # the number is free


async def test_a_number_in_use_is_refused_for_members_and_for_subscriptions(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    with pytest.raises(InvalidRequestError, match="already"):
        await member.join()
    with pytest.raises(InvalidRequestError, match="already"):
        await subscribe(member, member.number)


@pytest.mark.parametrize("first", ["member", "reader"])
async def test_a_number_is_given_once_to_a_member_and_a_reader_that_ask_together(
    open_peer: OpenPeer, open_member: OpenMember, first: str
):
    peer = await open_peer()
    member = await open_member(peer)
    asking = [member.join(), subscribe(member, member.number)]
    answers = await asyncio.gather(*asking[:: 1 if first == "member" else -1], return_exceptions=True)
    assert not isinstance(answers[0], Exception)
    assert isinstance(answers[1], InvalidRequestError)
    assert f"has a subscription {member.number} already" in answers[1].message
    assert peer._node.members.count() + peer._node.deliveries.count() == 1


async def test_members_and_readers_of_a_connection_count_together(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer(limits=Limits(subscriptions=2))
    member = await (await open_member(peer)).join()
    numbers = [member.link.next_subscription() for _ in range(3)]
    answers = await asyncio.gather(*(subscribe(member, n) for n in numbers), return_exceptions=True)
    assert [type(answer) for answer in answers] == [m.Subscribed, InvalidRequestError, InvalidRequestError]
    await member.link.request(m.Unsubscribe(member.link.next_id(), numbers[0]), SECONDS)
    await subscribe(member, numbers[1])


async def test_a_topic_with_no_room_for_the_name_of_its_dead_letters_has_no_groups(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer("x" * 196)
    with pytest.raises(InvalidNameError, match="dead letter"):
        await (await open_member(peer)).join(topic="x" * 196)


@pytest.mark.parametrize(
    "fields",
    [
        {"how": "forget"},
        {"attempts": [1]},
        {"delay_us": -2},
        {"delay_us": 10**18},
        {"offsets": [0] * 10_001, "attempts": [1] * 10_001},
    ],
    ids=str,
)
async def test_a_settle_that_cannot_be_is_refused_and_changes_nothing(
    open_peer: OpenPeer, open_member: OpenMember, fields: dict[str, Any]
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 2)
    await member.has((0, 1), (1, 1))
    settle = {"how": "nack", "offsets": [0, 1], "attempts": [1, 1], "delay_us": 0} | fields
    with pytest.raises(InvalidRequestError):
        await member.link.request(
            m.Settle(id=member.link.next_id(), subscription=member.number, **settle), SECONDS
        )
    assert (await info(peer)).in_flight == 2


async def test_changes_to_what_is_not_there_are_told(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await open_member(peer)
    ids = count(1000)
    for frame in (
        m.Groups(next(ids), TOPIC, "none"),
        m.PeekGroup(id=next(ids), topic=TOPIC, group="none", limit=1),
        m.ChangeGroup(id=next(ids), topic=TOPIC, group="none", how="reset"),
    ):
        with pytest.raises(GroupNotFoundError, match="topic jobs has no group none"):
            await member.link.request(frame, SECONDS)
    await member.join()
    for frame in (
        m.ChangeGroup(id=next(ids), topic=TOPIC, group="g", how="forget"),
        m.PeekGroup(id=next(ids), topic=TOPIC, group="g", limit=0),
    ):
        with pytest.raises(InvalidRequestError):
            await member.link.request(frame, SECONDS)
