"""Where the copies of topics are: placed, added, removed, moved, replaced, drained, promoted."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from pubsub.errors import (
    ConflictError,
    InvalidRequestError,
    PeerNotFoundError,
    PubsubError,
    RegistryUnavailableError,
    SettingsError,
    TopicNotFoundError,
)
from pubsub.index import IndexServer
from pubsub.model import TopicInfo
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from pubsub.registry import TopicRecord
from tests.integration.index.asking import ask, create, lookup, peers, redis, registry_of, topics
from tests.integration.index.conftest import Connect, MakeRegistry, StartIndex
from tests.integration.index.crowd import TTL, Crowd, record_of, until_owned
from tests.waiting import wait_until


@pytest.fixture
async def index(start_index: StartIndex) -> IndexServer:
    return await start_index(ttl_seconds=TTL)


async def change(link: Link, topic: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> TopicInfo:
    reply = await ask(link, m.ChangeReplicas, topic=topic, add=list(add), remove=list(remove))
    (info,) = reply.topics
    return info


async def until_replicas(
    index: IndexServer, topic: str, replicas: set[str], seconds: float = 10.0
) -> TopicRecord:
    """The record, once the topic lives on these peers and no other is to leave."""

    async def found() -> TopicRecord | None:
        record = await record_of(index, topic)
        return record if set(record.replicas) == replicas and not record.leaving else None

    record = await wait_until(found, seconds)
    assert record is not None
    return record


async def follow(index: IndexServer, crowd: Crowd, topic: str, *, until: set[str]) -> TopicRecord:
    """Play the owners: whoever holds a copy is in sync soon; until the topic lives on these peers."""

    async def step() -> TopicRecord | None:
        record = await record_of(index, topic)
        if set(record.replicas) == until and not record.leaving and set(record.in_sync) == until:
            return record
        owner = crowd[record.owner]
        copy = owner.copies.get(record.id)
        if copy is not None and copy.role == "owner":
            held = [peer for peer in record.replicas if record.id in crowd[peer].copies]
            if set(held) != set(record.in_sync):
                await owner.propose(topic, held, epoch=record.epoch, version=record.version)
        return None

    record = await wait_until(step)
    assert record is not None
    return record


# Placement


async def test_replicas_are_spread_over_zones(index: IndexServer, crowd: Crowd, open_link: Connect) -> None:
    for name, zone in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")):
        await crowd.start(index, name, zone=zone)
    link = await open_link(index)
    assert {name: peer.zone for name, peer in (await peers(link)).items()} == {
        "a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c",
    }  # fmt: skip
    for number in range(6):
        info = await crowd.create(link, f"t.{number}", in_sync=False)
        assert {name[0] for name in info.replicas} == {"a", "b", "c"}
    one_more = await crowd.create(link, "four", replicas=4, in_sync=False)
    assert len(set(one_more.replicas)) == 4


async def test_an_owner_that_was_named_keeps_its_zone_from_the_others(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    for name, zone in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        await crowd.start(index, name, zone=zone)
    info = await crowd.create(await open_link(index), "t", replicas=2, on="a2", in_sync=False)
    assert info.replicas == ["a2", "b1"]


async def test_with_too_few_peers_a_topic_lives_on_those_there_are_says_so_and_gets_the_others_later(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob")
    link = await open_link(index)
    info = await crowd.create(link, "t")
    assert set(info.replicas) == {"alice", "bob"}
    assert (await lookup(link, "t")).problem == "short of replicas: 2 of 3, until another peer can take one"
    await crowd.start(index, "carol")
    registered = index._controller
    registered.look_at(["t"])
    record = await until_replicas(index, "t", {"alice", "bob", "carol"})
    assert record.owner == info.owner
    copy = await crowd["carol"].until_held(info.id)
    assert (copy.role, copy.owner) == ("replica", info.owner)


async def test_a_replica_whose_peer_is_away_for_too_long_is_replaced_and_dropped_when_it_returns(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol", "dave")
    link = await open_link(index)
    policy = {"replace_after": "1s"}
    info = await crowd.create(link, "t", on="alice", policy=policy)
    (spare,) = crowd.peers.keys() - set(info.replicas)
    gone = next(name for name in info.replicas if name != "alice")
    await crowd.silence(gone)
    await asyncio.sleep(TTL + 0.2)
    assert set((await record_of(index, "t")).replicas) == set(info.replicas)  # not yet
    staying = set(info.replicas) - {gone} | {spare}
    await wait_until(lambda: info.id in crowd[spare].copies)
    await follow(index, crowd, "t", until=staying)
    crowd[gone].gate.set()
    await crowd[gone].register()
    reply = await crowd[gone].reconcile()
    assert [copy.id for copy in reply.unwanted] == [info.id]
    assert info.id not in crowd[gone].copies


async def test_a_policy_that_wants_more_or_fewer_copies_is_followed(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await create(link, "t", on="alice")
    for wanted in (3, 1):
        copy = crowd["alice"].copies[info.id]
        policy = {"replicas": wanted} if wanted > 1 else {}
        crowd["alice"].copies[info.id] = msgspec.structs.replace(copy, policy=policy)
        await crowd["alice"].reconcile()
        all_peers = {"alice", "bob", "carol"}
        await follow(index, crowd, "t", until=all_peers if wanted == 3 else {"alice"})
    assert await registry_of(index).replicated_topics() == set()
    for name in ("bob", "carol"):
        await wait_until(lambda name=name: info.id not in crowd[name].copies)


# What operators want


async def test_a_replica_is_added_and_the_policy_grows_with_it(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await create(link, "t", on="alice")
    added = await change(link, "t", add=["carol"])
    assert (added.replicas, added.in_sync) == (["alice", "carol"], ["alice"])
    assert added.policy == {"replicas": 2}
    assert crowd["alice"].copies[info.id].policy == {"replicas": 2}
    await crowd["carol"].until_held(info.id, "replica")
    record = await follow(index, crowd, "t", until={"alice", "carol"})
    assert record.owner == "alice"
    assert (await change(link, "t", add=["carol"])).replicas == ["alice", "carol"]  # nothing more to do
    await asyncio.sleep(2 * TTL)
    assert set((await record_of(index, "t")).replicas) == {"alice", "carol"}


async def test_a_replica_is_removed_and_none_is_put_in_its_place(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol", "dave")
    link = await open_link(index)
    info = await crowd.create(link, "t", on="alice")
    gone = info.replicas[1]
    removed = await change(link, "t", remove=[gone])
    assert removed.policy == {"replicas": 2}
    record = await until_replicas(index, "t", set(info.replicas) - {gone})
    assert set(record.in_sync) == set(info.replicas) - {gone}
    await wait_until(lambda: info.id not in crowd[gone].copies)
    await asyncio.sleep(2 * TTL)
    assert set((await record_of(index, "t")).replicas) == set(info.replicas) - {gone}


async def test_a_replica_that_is_needed_leaves_only_once_the_others_are_in_sync(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await crowd.create(link, "t", on="alice")
    assert (await crowd["alice"].propose("t", ["alice", "bob"])).applied
    removed = await change(link, "t", remove=["bob"])
    assert removed.leaving == ["bob"]
    await asyncio.sleep(2 * TTL)
    assert set((await record_of(index, "t")).in_sync) == {"alice", "bob"}
    copy = await record_of(index, "t")
    assert (await crowd["alice"].propose("t", info.replicas, version=copy.version)).applied
    assert set((await until_replicas(index, "t", {"alice", "carol"})).in_sync) == {"alice", "carol"}


async def test_an_owner_that_is_removed_hands_over_first(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await crowd.create(link, "t", on="alice")
    await change(link, "t", remove=["alice"])
    record = await until_replicas(index, "t", {"bob", "carol"})
    assert record.owner in ("bob", "carol")
    assert record.epoch > info.epoch
    await wait_until(lambda: info.id not in crowd["alice"].copies)


async def test_a_move_adds_waits_and_then_removes(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await crowd.create(link, "t", replicas=2, on="alice")
    source = next(name for name in info.replicas if name != "alice")
    (target,) = crowd.peers.keys() - set(info.replicas)
    moved = await change(link, "t", add=[target], remove=[source])
    assert (set(moved.replicas), moved.leaving) == ({"alice", "bob", "carol"}, [source])
    assert moved.policy == {"replicas": 2}
    await asyncio.sleep(TTL)
    assert set((await record_of(index, "t")).in_sync) == {"alice", source}
    await follow(index, crowd, "t", until={"alice", target})
    await wait_until(lambda: info.id not in crowd[source].copies)


async def test_the_only_copy_of_a_topic_is_moved_with_its_ownership(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob")
    link = await open_link(index)
    info = await create(link, "t", on="alice")
    await change(link, "t", add=["bob"], remove=["alice"])
    record = await follow(index, crowd, "t", until={"bob"})
    assert record.owner == "bob"
    assert record.policy == {}
    await crowd["bob"].until_held(info.id, "owner")
    await wait_until(lambda: info.id not in crowd["alice"].copies)


@pytest.mark.parametrize(
    ("add", "remove", "error", "why"),
    [
        ((), (), InvalidRequestError, "say which replica"),
        (("bob",), ("bob",), InvalidRequestError, "named once only"),
        (("dave", "dave"), (), InvalidRequestError, "named once only"),
        (("erin",), (), PeerNotFoundError, "peer erin is not alive"),
        ((), ("dave",), InvalidRequestError, "peer dave holds no copy of topic t"),
        ((), ("alice", "bob"), InvalidRequestError, "the only copy of topic t"),
        ((), ("bob",), SettingsError, "min_in_sync"),
        (("no peer",), (), PubsubError, "not a peer name"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    index: IndexServer,
    crowd: Crowd,
    open_link: Connect,
    add: Sequence[str],
    remove: Sequence[str],
    error: type[PubsubError],
    why: str,
) -> None:
    await crowd.start(index, "alice", "bob")
    link = await open_link(index)
    await crowd.create(link, "t", replicas=2, on="alice", policy={"min_in_sync": 2})
    await crowd.start(index, "dave")
    before = await record_of(index, "t")
    with pytest.raises(error, match=why):
        await change(link, "t", add, remove)
    assert await record_of(index, "t") == before
    with pytest.raises(TopicNotFoundError):
        await change(link, "none", ["dave"])


# Draining


async def drain(link: Link, peer: str, cancel: bool = False) -> dict[str, object]:
    reply = await ask(link, m.Drain, peer=peer, cancel=cancel)
    assert isinstance(reply, m.StatusReport)
    return reply.fields


async def test_a_drained_peer_is_empty_in_the_end_and_gets_nothing_new(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    infos = [await crowd.create(link, f"t.{n}", replicas=2, on="alice") for n in range(4)]
    infos += [await create(link, f"alone.{n}", on="alice") for n in range(3)]
    assert (await drain(link, "alice"))["topics"] == 7
    assert (await peers(link))["alice"].draining
    new = await crowd.create(link, "new", replicas=3, in_sync=False)
    assert "alice" not in new.replicas
    for info in infos:
        wanted = {"bob", "carol"}
        if info.topic.startswith("alone"):

            async def added(name: str = info.topic) -> bool:
                return len((await record_of(index, name)).replicas) == 2

            await wait_until(added)
            wanted = set((await record_of(index, info.topic)).replicas) - {"alice"}
        await follow(index, crowd, info.topic, until=wanted)

    async def empty() -> bool:
        return (await drain(link, "alice"))["topics"] == 0

    await wait_until(empty)
    await wait_until(lambda: not crowd["alice"].copies)
    assert all("alice" not in topic.replicas for topic in (await topics(link)).values())
    assert {topic.policy.get("replicas", 1) for topic in (await topics(link, "alone.*")).values()} == {1}


async def test_draining_says_what_it_waits_for_and_can_be_ended(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice")
    link = await open_link(index)
    await create(link, "t", on="alice")
    assert (await drain(link, "alice"))["waiting"] == {"t": "no other peer can take a copy"}
    await crowd.start(index, "bob")

    async def late() -> bool:
        return (await drain(link, "alice"))["waiting"] == {"t": "the copy on bob is not in sync yet"}

    await wait_until(late)
    assert await drain(link, "alice", cancel=True) == {"peer": "alice", "draining": False, "topics": 1}
    assert not (await peers(link))["alice"].draining
    await until_replicas(index, "t", {"alice"})  # bob's copy is one too many again


async def test_a_peer_that_is_away_is_not_drained(index: IndexServer, open_link: Connect) -> None:
    with pytest.raises(PeerNotFoundError, match="peer nobody is not alive"):
        await drain(await open_link(index), "nobody")


# Promoting


async def promote(link: Link, topic: str, peer: str, accept_loss: bool = False) -> str:
    """Ask as often as the index says that it cannot decide yet, as a client does; gives what it notes."""
    notes: list[str] = []

    async def decided() -> bool:
        try:
            notes.append((await ask(link, m.Promote, topic=topic, peer=peer, accept_loss=accept_loss)).note)
        except RegistryUnavailableError:
            return False
        return True

    await wait_until(decided)
    return notes[0]


async def test_an_offline_topic_is_promoted_only_with_a_word_about_what_may_be_lost(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await crowd.create(link, "t", on="alice")
    assert (await crowd["alice"].propose("t", ["alice", "bob"])).applied
    crowd["carol"].ends[info.id] = 42
    await crowd.silence("alice", "bob")
    await wait_until(
        lambda: not index._peers.standing("alice").alive and not index._peers.standing("bob").alive
    )
    with pytest.raises(
        InvalidRequestError, match=r"below offset 42; what only alice, bob has may be lost.*--accept-loss"
    ):
        await promote(link, "t", "carol")
    assert (await record_of(index, "t")).owner == "alice"
    note = await promote(link, "t", "carol", accept_loss=True)
    assert "peer carol has the messages below offset 42; what only alice, bob has may be lost" in note
    record = await record_of(index, "t")
    assert (record.owner, record.in_sync, record.lossy) == ("carol", ["carol"], True)
    assert (await crowd["carol"].until_held(info.id, "owner")).lossy


async def test_a_copy_in_sync_is_promoted_from_a_live_owner_without_loss(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    await crowd.create(link, "t", on="alice")
    assert await promote(link, "t", "alice") == "peer alice owns it already; nothing is lost"
    assert await promote(link, "t", "carol") == "peer carol owns it now; nothing is lost"
    await until_owned(index, "t", ["carol"])


async def test_a_copy_that_is_behind_is_not_promoted_from_a_live_owner(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob")
    link = await open_link(index)
    await crowd.create(link, "t", replicas=2, on="alice", in_sync=False)
    for accept_loss in (False, True):
        with pytest.raises(InvalidRequestError, match="topic t is online, and peer bob is not in sync"):
            await promote(link, "t", "bob", accept_loss)
    with pytest.raises(PeerNotFoundError):
        await promote(link, "t", "nobody", True)


async def test_of_replicas_that_are_added_at_once_each_adds_one_to_the_policy(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await create(link, "t", on="alice")
    gate = asyncio.Event()
    asked = crowd["alice"].hold_up(m.SetPolicy, gate)
    late = asyncio.create_task(change(link, "t", add=["bob"]))
    await wait_until(lambda: asked)
    assert (await change(link, "t", add=["carol"])).policy == {"replicas": 2}
    gate.set()
    added = await late
    assert (set(added.replicas), added.policy) == ({"alice", "bob", "carol"}, {"replicas": 3})
    assert crowd["alice"].copies[info.id].policy == {"replicas": 3}


@pytest.mark.parametrize("make_registry", ["redis"], indirect=True)
async def test_replicas_are_changed_by_several_operators_at_once(
    make_registry: MakeRegistry, start_index: StartIndex, crowd: Crowd, open_link: Connect
) -> None:
    indexes = [await start_index(make_registry(), ttl_seconds=TTL) for _ in range(2)]
    for number, name in enumerate(["alice", "bob", "carol", "dave", "erin"]):
        await crowd.start(indexes[number % 2], name)
    links = [await open_link(index) for index in indexes]
    await create(links[0], "t", on="alice")

    async def add(link: Link, name: str) -> None:
        for _ in range(20):
            try:
                await change(link, "t", add=[name])
                return
            except ConflictError:
                await asyncio.sleep(0.02)

    await asyncio.gather(
        *(add(links[n % 2], name) for n, name in enumerate(["bob", "carol", "dave", "erin"]))
    )
    record = await follow(indexes[0], crowd, "t", until=set(crowd.peers))
    assert record.owner == "alice"
    assert (await redis(indexes[0], "HGET", "pubsub:topic:t", "owner")) == "alice"
