"""Owners die: another copy that is in sync takes over, whichever index finds it out."""

import asyncio

import msgspec
import pytest

from pubsub.core.epochs import FIRST_EPOCH
from pubsub.errors import RegistryUnavailableError, TopicOfflineError
from pubsub.index import IndexServer
from pubsub.protocol import messages as m
from pubsub.registry import TopicRecord
from tests.integration.index.asking import ask, create, lookup, redis, registry_of
from tests.integration.index.conftest import Connect, MakeRegistry, StartIndex
from tests.integration.index.crowd import TTL, Crowd, record_of, until_owned
from tests.stopwatch import Stopwatch
from tests.waiting import wait_until


@pytest.fixture
async def index(start_index: StartIndex) -> IndexServer:
    return await start_index(ttl_seconds=TTL)


async def test_a_topic_is_created_on_different_peers_and_all_of_them_are_told(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol", "dave")
    info = await crowd.create(await open_link(index), "t", on="bob", in_sync=False)
    assert info.owner == "bob"
    assert len(set(info.replicas)) == 3
    assert info.in_sync == ["bob"]
    assert info.problem is not None  # nobody follows yet: too few are in sync
    for name in info.replicas:
        copy = crowd[name].copies[info.id]
        assert copy.role == ("owner" if name == "bob" else "replica")
        assert (copy.owner, copy.epoch, copy.replicas) == ("bob", FIRST_EPOCH, info.replicas)
        assert copy.owner_address == str(crowd["bob"].address)
    assert (await crowd["bob"].propose("t", info.replicas)).applied
    assert (await lookup(await open_link(index), "t")).problem is None


async def test_the_in_sync_copy_with_the_longest_log_takes_over_in_a_new_epoch(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    info = await crowd.create(await open_link(index), "t", on="alice")
    crowd["bob"].ends[info.id], crowd["carol"].ends[info.id] = 10, 11
    await crowd.silence("alice")
    record = await until_owned(index, "t", ["carol"])
    assert record.epoch > FIRST_EPOCH
    assert set(record.in_sync) == {"bob", "carol"}
    assert set(record.replicas) == {"alice", "bob", "carol"}
    assert (await crowd["carol"].until_held(info.id, "owner")).epoch == record.epoch
    await wait_until(lambda: crowd["bob"].copies[info.id].owner == "carol")
    assert crowd["bob"].copies[info.id].role == "replica"


async def test_a_copy_that_is_not_in_sync_never_takes_over_and_the_topic_says_why_it_is_offline(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await crowd.create(link, "t", on="alice")
    assert (await crowd["alice"].propose("t", ["alice", "bob"])).applied
    crowd["carol"].ends[info.id] = 99
    await crowd.silence("alice", "bob")
    await wait_until(lambda: not index._peers.standing("bob").alive)
    found = await lookup(link, "t")
    assert (found.online, found.owner) == (False, "alice")
    assert found.problem == (
        "offline: its owner alice is away, and so is every other copy that is in sync (alice, bob); it waits for "
        "one of them, or for: pubsub topic promote t PEER --accept-loss"
    )
    with pytest.raises(
        TopicOfflineError, match="topic t is offline: its owner alice is away, and so is every"
    ):
        await index._relay._route("t")
    await asyncio.sleep(2 * TTL)
    assert (await record_of(index, "t")).owner == "alice"
    crowd["bob"].gate.set()
    await crowd.revive("bob")
    await until_owned(index, "t", ["bob"])
    assert (await lookup(link, "t")).online


async def test_a_topic_with_one_copy_is_never_failed_over(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob")
    link = await open_link(index)
    info = await create(link, "t", on="alice")
    await crowd.silence("alice")
    await wait_until(lambda: not index._peers.standing("alice").alive)
    assert (await lookup(link, "t")).problem == "offline: its owner alice is away"
    await asyncio.sleep(2 * TTL)
    record = await record_of(index, "t")
    assert (record.owner, record.epoch, record.version) == ("alice", 1, 1)
    assert info.id not in crowd["bob"].copies


async def test_an_in_sync_copy_that_does_not_answer_is_not_waited_for(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    await crowd.create(await open_link(index), "t", on="alice")
    crowd["bob"].gate.clear()  # it lives, but not for the index
    await crowd.silence("alice")
    assert (await until_owned(index, "t", ["carol"])).owner == "carol"


async def test_a_damaged_copy_and_one_that_lacks_what_is_committed_are_not_chosen(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    info = await crowd.create(await open_link(index), "t", on="alice")
    crowd["bob"].ends[info.id] = 50
    crowd["bob"].unsound.add(info.id)
    await crowd.silence("alice")
    assert (await until_owned(index, "t", ["bob", "carol"])).owner == "carol"


async def test_the_old_owner_is_told_to_follow_when_it_returns(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    info = await crowd.create(await open_link(index), "t", on="alice")
    await crowd.silence("alice")
    record = await until_owned(index, "t", ["bob", "carol"])
    crowd["alice"].gate.set()
    assert crowd["alice"].copies[info.id].role == "owner"
    refused = await crowd["alice"].propose("t", ["alice", "bob", "carol"])
    assert not refused.applied
    assert refused.record is not None
    assert (refused.record.owner, refused.record.role) == (record.owner, "replica")
    await crowd["alice"].register()
    crowd["alice"].copies[info.id] = m.CopyState(
        id=info.id, topic="t", role="owner", owner="alice", epoch=1, version=2, replicas=info.replicas
    )
    reply = await crowd["alice"].announce()
    assert reply.set_aside == []
    assert [(c.role, c.owner, c.epoch) for c in reply.create] == [("replica", record.owner, record.epoch)]


async def test_a_graceful_owner_hands_over_at_once_and_is_not_waited_for(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    info = await crowd.create(await open_link(index), "t", on="alice")
    reply = await crowd["alice"].propose("t", ["bob", "carol"], owner="carol")
    assert reply.applied
    assert reply.record is not None
    assert (reply.record.owner, reply.record.role) == ("carol", "replica")
    record = await record_of(index, "t")
    assert (record.owner, record.in_sync) == ("carol", ["carol", "bob"])
    await crowd["carol"].until_held(info.id, "owner")


@pytest.mark.parametrize("make_registry", ["redis"], indirect=True)
async def test_several_indexes_at_once_give_each_topic_one_owner_in_one_epoch(
    make_registry: MakeRegistry, start_index: StartIndex, crowd: Crowd, open_link: Connect
) -> None:
    indexes = [await start_index(make_registry(), ttl_seconds=TTL) for _ in range(3)]
    for number, name in enumerate(["alice", "bob", "carol", "dave"]):
        await crowd.start(indexes[number % 3], name)
    link = await open_link(indexes[0])
    infos = [await crowd.create(link, f"t.{n}", on="alice") for n in range(50)]
    await crowd.silence("alice")
    for info in infos:
        record = await until_owned(indexes[1], info.topic, ["bob", "carol", "dave"])
        assert record.owner in info.replicas
        await crowd[record.owner].until_held(info.id, "owner")
    owners: dict[tuple[int, int], set[str]] = {}
    for peer in crowd.peers.values():
        for copy in peer.told:
            owners.setdefault((copy.id, copy.epoch), set()).add(copy.owner)
    assert all(len(names) == 1 for names in owners.values())


async def test_a_thousand_topics_of_one_dead_owner_have_owners_within_five_seconds(
    start_index: StartIndex, crowd: Crowd, open_link: Connect
) -> None:
    ttl = 6.0  # what reconciles a thousand topics is busy, and must not be taken for dead
    index = await start_index(ttl_seconds=ttl)
    await crowd.start(index, "alice", "bob", "carol", ttl=ttl)
    generation = await registry_of(index).generation(0)
    names = [f"t.{n}" for n in range(1000)]
    records = [
        TopicRecord(
            name=name,
            id=n + 1,
            owner="alice",
            epoch=1,
            version=2,
            in_sync=["alice", "bob", "carol"],
            replicas=["alice", "bob", "carol"],
            policy={"replicas": 3},
            created_at=1,
            life=generation.id,
        )
        for n, name in enumerate(names)
    ]
    await registry_of(index).restore_topics(records)
    for peer in crowd.peers.values():
        for record in records:
            copy = m.CopyState(
                id=record.id, topic=record.name, role="owner" if peer.name == "alice" else "replica",
                owner="alice", epoch=1, version=2, replicas=list(record.replicas), in_sync=list(record.in_sync),
                policy=dict(record.policy), created_us=1,
            )  # fmt: skip
            peer.copies[copy.id] = copy
        await peer.reconcile()
    await crowd.silence("alice")
    await wait_until(lambda: not index._peers.standing("alice").alive)
    watch = Stopwatch()

    async def decided() -> bool:
        try:
            records = await registry_of(index).lookup(names)
        except RegistryUnavailableError:
            return False  # a reply that comes too late on a busy machine
        return all(record is not None and record.owner != "alice" for record in records)

    await wait_until(decided, 30.0)
    decided_in = watch.seconds

    def told() -> bool:
        owned = {c.id for name in ("bob", "carol") for c in crowd[name].copies.values() if c.role == "owner"}
        return len(owned) == 1000

    await wait_until(told, 30.0)
    told_in = watch.seconds
    print(f"decided in {decided_in:.2f} s, told in {told_in:.2f} s")
    assert told_in < 5.0


async def test_an_owner_that_lost_its_copy_makes_no_empty_one_and_another_takes_over(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    info = await crowd.create(await open_link(index), "t", on="alice")
    del crowd["alice"].copies[info.id]
    reply = await crowd["alice"].announce()
    assert reply.create == []
    record = await until_owned(index, "t", ["bob", "carol"])
    assert "alice" not in record.in_sync
    assert (await crowd["alice"].until_held(info.id)).role == "replica"


async def test_a_replica_that_lost_its_copy_is_not_in_sync_any_more(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    info = await crowd.create(await open_link(index), "t", on="alice")
    del crowd["bob"].copies[info.id]
    reply = await crowd["bob"].announce()
    assert [(c.role, c.owner) for c in reply.create] == [("replica", "alice")]
    assert set((await record_of(index, "t")).in_sync) == {"alice", "carol"}


async def test_no_owner_is_replaced_before_everybody_had_a_ttl_to_say_that_it_lives(
    start_index: StartIndex, make_registry: MakeRegistry, crowd: Crowd, open_link: Connect
) -> None:
    index = await start_index(ttl_seconds=1.5)
    await crowd.start(index, "alice", "bob", ttl=1.5)
    link = await open_link(index)
    await crowd.create(link, "t", replicas=2, on="alice")
    await redis(index, "ZADD", "pubsub:peers", 1, "alice")  # as if nobody had heard of it for long
    index._peers.doubt_all()
    index._settling._listening_since = index._controller._clock()  # as after an interruption
    await asyncio.sleep(0.6)
    assert (await record_of(index, "t")).owner == "alice"


async def test_a_topic_of_which_copies_have_promised_an_epoch_that_nobody_got_gets_a_newer_one(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob")
    info = await crowd.create(await open_link(index), "t", replicas=2, on="alice")
    before = await record_of(index, "t")
    index._controller.on_refused(before, before.epoch + 10**6)

    async def renewed() -> bool:
        return (await record_of(index, "t")).epoch > before.epoch + 10**6

    await wait_until(renewed)
    assert (await record_of(index, "t")).owner == "alice"
    await wait_until(lambda: crowd["bob"].copies[info.id].epoch > before.epoch)


async def test_what_another_index_changed_and_did_not_tell_is_told(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob")
    info = await crowd.create(await open_link(index), "t", replicas=2, on="alice")
    record = await record_of(index, "t")
    changed = msgspec.structs.replace(record, in_sync=["alice"])
    assert (await registry_of(index).compare_and_set_topic("t", record, changed)).applied
    await wait_until(lambda: crowd["bob"].copies[info.id].in_sync == ["alice"])


async def test_a_deleted_topic_is_dropped_by_all_who_hold_a_copy(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await crowd.create(link, "t")
    assert (await ask(link, m.DeleteTopic, topic="t")).note == ""
    for peer in crowd.peers.values():
        assert info.id in peer.dropped
    assert await registry_of(index).replicated_topics() == set()
