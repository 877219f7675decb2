"""The registry is lost, or set back: topics with replicas are decided upon anew, from what their copies say."""

import asyncio

import msgspec
import pytest

from pubsub.errors import RegistryUnavailableError
from pubsub.index import IndexServer
from pubsub.protocol import messages as m
from pubsub.registry import TopicRecord
from tests.integration.index.asking import lookup, redis, registry_of
from tests.integration.index.conftest import Connect, MakeRegistry, StartIndex
from tests.integration.index.crowd import TTL, Crowd, record_of, until_owned
from tests.waiting import wait_until


@pytest.fixture
async def index(start_index: StartIndex) -> IndexServer:
    return await start_index(ttl_seconds=TTL)


async def until_confirmed(index: IndexServer, topic: str) -> TopicRecord:
    """The record, once it was decided upon in the present life of the registry."""

    async def found() -> TopicRecord | None:
        (record,) = await registry_of(index).lookup([topic])
        life = (await index._settling.look()).id
        return record if record is not None and record.life == life else None

    record = await wait_until(found)
    assert record is not None
    return record


async def test_a_wiped_registry_finds_topics_again_at_once_and_confirms_their_owners_after_a_ttl(
    start_index: StartIndex, crowd: Crowd, open_link: Connect
) -> None:
    index = await start_index(ttl_seconds=1.5)
    await crowd.start(index, "alice", "bob", "carol", ttl=1.5)
    link = await open_link(index)
    info = await crowd.create(link, "t", on="alice")
    before = await record_of(index, "t")
    await redis(index, "FLUSHALL")
    wiped = await index._settling.look()
    for peer in crowd.peers.values():
        await peer.register()
        await peer.reconcile()
    restored = await record_of(index, "t")
    assert restored == msgspec.structs.replace(before, life="")
    assert (await lookup(link, "t")).online
    record = await until_confirmed(index, "t")
    assert index._controller._clock() >= wiped.created_at + 1_500_000
    assert record.owner == "alice"
    assert record.epoch > before.epoch
    assert record.version > before.version
    assert set(record.in_sync) == {"alice", "bob", "carol"}
    assert (await crowd["alice"].until_held(info.id, "owner")).epoch == record.epoch


async def test_where_the_owner_is_away_the_longest_log_of_the_others_is_its_successor(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    info = await crowd.create(await open_link(index), "t", on="alice")
    crowd["bob"].ends[info.id], crowd["carol"].ends[info.id] = 10, 20
    await crowd.silence("alice")
    await redis(index, "FLUSHALL")
    await wait_until(lambda: registry_of(index).lookup(["t"]))
    record = await until_confirmed(index, "t")
    assert (record.owner, record.in_sync) == ("carol", ["carol"])
    await crowd["carol"].until_held(info.id, "owner")


async def test_too_few_copies_decide_nothing_until_another_one_returns(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob")
    await crowd.create(await open_link(index), "t", replicas=2, on="alice")
    before = await record_of(index, "t")
    await crowd.silence("alice")
    await redis(index, "FLUSHALL")

    async def restored() -> bool:
        return (await registry_of(index).lookup(["t"]))[0] is not None

    await wait_until(restored)
    await asyncio.sleep(3 * TTL)
    record = await record_of(index, "t")
    assert (record.owner, record.epoch, record.life) == ("alice", before.epoch, "")
    assert crowd["bob"].promised == {}
    crowd["alice"].gate.set()
    await crowd.revive("alice")
    assert (await until_confirmed(index, "t")).owner == "alice"


async def test_an_owner_with_an_older_epoch_that_announces_first_does_not_keep_the_topic(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    info = await crowd.create(await open_link(index), "t", on="alice")
    old = crowd["alice"].copies[info.id]
    await crowd.silence("alice")
    successor = (await until_owned(index, "t", ["bob", "carol"])).owner
    await crowd[successor].until_held(info.id, "owner")
    (other,) = {"bob", "carol"} - {successor}
    await wait_until(lambda: crowd[other].copies[info.id].owner == successor)
    crowd[successor].ends[info.id] = crowd[other].ends[info.id] = 30
    await redis(index, "FLUSHALL")
    await index._settling.look()
    crowd["alice"].gate.set()
    crowd["alice"].copies[info.id] = old
    await crowd["alice"].register()
    await crowd["alice"].reconcile()
    await crowd.revive("alice")
    record = await until_confirmed(index, "t")
    assert record.owner in (successor, other)
    assert (await crowd["alice"].until_held(info.id, "replica")).owner == record.owner


async def test_peers_announce_again_to_a_registry_that_was_set_back_though_it_knows_them(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    link = await open_link(index)
    info = await crowd.create(link, "t", on="alice")
    snapshot = await redis(index, "HGETALL", "pubsub:topic:t")
    registry = await redis(index, "HGETALL", "pubsub:registry")
    await crowd.silence("alice")
    successor = (await until_owned(index, "t", ["bob", "carol"])).owner
    epoch = (await crowd[successor].until_held(info.id, "owner")).epoch
    for key, fields in (("pubsub:topic:t", snapshot), ("pubsub:registry", registry)):
        flat = fields if isinstance(fields, list) else [text for pair in fields.items() for text in pair]
        await redis(index, "DEL", key)
        await redis(index, "HSET", key, *flat)
    record = await until_confirmed(index, "t")
    assert record.epoch > epoch
    assert record.owner in ("bob", "carol")


async def test_a_heartbeat_asks_for_an_announcement_once_in_each_life_of_the_registry(
    index: IndexServer, crowd: Crowd
) -> None:
    await crowd.start(index, "alice")
    await crowd.silence("alice")
    assert await crowd["alice"].beat()
    index._settling.note_announced("alice", "an earlier life")
    assert not await crowd["alice"].beat()
    await crowd["alice"].register()
    await crowd["alice"].reconcile()
    assert await crowd["alice"].beat()


async def test_nothing_is_promoted_or_proposed_before_it_is_known_who_owns_a_topic(
    start_index: StartIndex, crowd: Crowd, open_link: Connect
) -> None:
    index = await start_index(ttl_seconds=3)
    await crowd.start(index, "alice", "bob", ttl=3)
    link = await open_link(index)
    info = await crowd.create(link, "t", replicas=2, on="alice")
    await redis(index, "FLUSHALL")
    await index._settling.look()
    for peer in crowd.peers.values():
        await peer.register()
        await peer.reconcile()
    refused = await crowd["alice"].propose("t", ["alice"])
    assert not refused.applied
    assert set((await record_of(index, "t")).in_sync) == set(info.replicas)
    with pytest.raises(RegistryUnavailableError, match="is not decided before every peer"):
        await link.request(m.Promote(link.next_id(), "t", "bob", True), 5.0)


@pytest.mark.parametrize("make_registry", ["redis"], indirect=True)
async def test_two_indexes_that_rebuild_at_once_end_with_one_owner_whose_epoch_no_copy_refuses(
    make_registry: MakeRegistry, start_index: StartIndex, crowd: Crowd, open_link: Connect
) -> None:
    indexes = [await start_index(make_registry(), ttl_seconds=TTL) for _ in range(2)]
    for number, name in enumerate(["alice", "bob", "carol"]):
        await crowd.start(indexes[number % 2], name)
    link = await open_link(indexes[0])
    infos = [await crowd.create(link, f"t.{n}", on="alice") for n in range(20)]
    await redis(indexes[0], "FLUSHALL")
    for info in infos:

        async def served(info: m.TopicInfo = info) -> bool:
            (record,) = await registry_of(indexes[0]).lookup([info.topic])
            if record is None or not record.life:
                return False
            held = [peer.copies[info.id] for peer in crowd.peers.values()]
            promised = max(peer.promised.get(info.id, 0) for peer in crowd.peers.values())
            same = all((copy.owner, copy.epoch) == (record.owner, record.epoch) for copy in held)
            return same and promised <= record.epoch

        await wait_until(served, 20.0)
