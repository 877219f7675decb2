"""Owners change who is in sync: only who owns a topic, only what it knows, only while that stands."""

import asyncio

import msgspec
import pytest

from pubsub.errors import InvalidNameError, InvalidRequestError, PeerNameTakenError, PubsubError
from pubsub.index import IndexServer
from pubsub.protocol import messages as m
from tests.integration.index.asking import create, registry_of
from tests.integration.index.conftest import Connect
from tests.integration.index.crowd import Crowd, record_of
from tests.stopwatch import Stopwatch
from tests.waiting import wait_until


@pytest.fixture
async def topic(index: IndexServer, crowd: Crowd, open_link: Connect) -> m.TopicInfo:
    """On three peers, alice the owner and the only one in sync."""
    await crowd.start(index, "alice", "bob", "carol", ttl=6)
    return await crowd.create(await open_link(index), "t", on="alice", in_sync=False)


async def test_a_proposal_changes_who_is_in_sync_and_the_replicas_are_told(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo
) -> None:
    reply = await crowd["alice"].propose("t", ["alice", "carol"])
    assert reply.applied
    assert reply.record is not None
    assert (reply.record.in_sync, reply.record.version, reply.record.role) == (["alice", "carol"], 2, "owner")
    assert (await record_of(index, "t")).in_sync == ["alice", "carol"]
    for name in ("bob", "carol"):
        await wait_until(lambda name=name: crowd[name].copies[topic.id].in_sync == ["alice", "carol"])
        assert crowd[name].copies[topic.id].version == 2


async def test_a_proposal_of_a_record_that_is_no_more_changes_nothing_and_tells_what_is(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo
) -> None:
    before = await record_of(index, "t")
    for fields in ({"version": 7}, {"version": 0}, {"epoch": 3}, {"epoch": 0, "version": 0}):
        reply = await crowd["alice"].propose("t", ["alice", "bob"], **fields)
        assert not reply.applied
        assert reply.record is not None
        assert (reply.record.epoch, reply.record.version) == (before.epoch, before.version)
    assert await record_of(index, "t") == before


async def test_who_does_not_own_the_topic_proposes_in_vain(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo
) -> None:
    before = await record_of(index, "t")
    reply = await crowd["bob"].propose("t", ["bob"])
    assert not reply.applied
    assert reply.record is not None
    assert (reply.record.owner, reply.record.role) == ("alice", "replica")
    assert await record_of(index, "t") == before


async def test_only_replicas_may_be_in_sync_and_the_owner_always_is(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo
) -> None:
    for in_sync in (["bob"], [], ["alice", "dave"]):
        assert not (await crowd["alice"].propose("t", in_sync)).applied
    assert (await record_of(index, "t")).in_sync == ["alice"]


async def test_a_topic_is_handed_only_to_who_is_in_sync(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo
) -> None:
    assert not (await crowd["alice"].propose("t", ["bob"], owner="bob")).applied
    assert (await crowd["alice"].propose("t", ["alice", "bob"])).applied
    reply = await crowd["alice"].propose("t", ["alice", "bob"], owner="bob")
    assert reply.applied
    record = await record_of(index, "t")
    assert (record.owner, record.in_sync) == ("bob", ["bob", "alice"])  # it goes on as a replica
    assert record.epoch > topic.epoch


async def test_of_proposals_at_the_same_time_one_is_applied(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo
) -> None:
    copy = crowd["alice"].copies[topic.id]
    same = {"epoch": copy.epoch, "version": copy.version}
    wanted = [["alice", "bob"], ["alice", "carol"], ["alice", "bob", "carol"]] * 4
    replies = await asyncio.gather(*(crowd["alice"].propose("t", in_sync, **same) for in_sync in wanted))
    record = await record_of(index, "t")
    assert record.version == copy.version + 1
    for in_sync, reply in zip(wanted, replies, strict=True):  # the same one twice is one, asked twice
        assert reply.applied == (record.in_sync == in_sync)
        assert reply.record is not None
        assert reply.record.in_sync == record.in_sync


async def test_a_proposal_and_an_operators_change_at_the_same_time_are_both_made_or_one_is_refused(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo, open_link: Connect
) -> None:
    await crowd.start(index, "dave", ttl=6)
    link = await open_link(index)
    add = m.ChangeReplicas(id=link.next_id(), topic="t", add=["dave"])
    changed, reply = await asyncio.gather(
        link.request(add, 10.0), crowd["alice"].propose("t", ["alice", "bob"])
    )
    assert isinstance(changed, m.TopicList)
    record = await record_of(index, "t")
    assert "dave" in record.replicas
    assert ("bob" in record.in_sync) == reply.applied


async def test_a_topic_that_is_gone_or_another_one_is_answered_without_a_record(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo, open_link: Connect
) -> None:
    assert (await crowd["alice"].propose("t", ["alice"], topic_id=12345)).record is None
    await registry_of(index).compare_and_set_topic("t", await record_of(index, "t"), None)
    reply = await crowd["alice"].propose("t", ["alice"])
    assert (reply.applied, reply.record) == (False, None)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"topic": "no topic"}, InvalidNameError),
        ({"name": "no peer!"}, InvalidNameError),
        ({"incarnation": "another.9"}, PeerNameTakenError),
        ({"in_sync": [f"p{n}" for n in range(100)]}, InvalidRequestError),
    ],
)
async def test_bad_proposals_are_refused(
    crowd: Crowd, topic: m.TopicInfo, fields: dict[str, object], error: type[PubsubError]
) -> None:
    peer = crowd["alice"]
    made = m.Propose(
        id=1,
        name="alice",
        incarnation=peer.incarnation,
        topic="t",
        topic_id=topic.id,
        epoch=1,
        version=1,
        in_sync=["alice"],
    )
    assert peer.link is not None
    changed = msgspec.structs.replace(made, id=peer.link.next_id(), **fields)
    with pytest.raises(error):
        await peer.link.request(changed, 5.0)


async def test_no_answer_makes_a_peer_the_owner_by_a_record_that_is_not_confirmed(
    index: IndexServer, crowd: Crowd, topic: m.TopicInfo
) -> None:
    record = await record_of(index, "t")
    unsure = msgspec.structs.replace(record, owner="bob", epoch=9, life="an earlier one")
    assert (await registry_of(index).compare_and_set_topic("t", record, unsure)).applied
    asked = crowd["bob"].copies[topic.id]
    answer = await crowd["bob"].propose("t", [], version=asked.version)
    assert answer.record is not None
    assert (answer.record.epoch, answer.record.version) == (asked.epoch, asked.version)
    reply = await crowd["bob"].announce()
    assert reply.create == []
    assert not any(copy.role == "owner" for copy in crowd["bob"].told)


async def test_a_thousand_proposals_are_decided_together(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", ttl=6)
    link = await open_link(index)
    await asyncio.gather(*(create(link, f"t.{n}", on="alice", policy={"replicas": 2}) for n in range(200)))
    watch = Stopwatch()
    replies = await asyncio.gather(*(crowd["alice"].propose(f"t.{n}", ["alice", "bob"]) for n in range(200)))
    assert all(reply.applied for reply in replies)
    assert watch.seconds < 5.0
