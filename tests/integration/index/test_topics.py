import asyncio
from collections import Counter

import pytest

from pubsub.errors import (
    InvalidNameError,
    InvalidRequestError,
    PeerNotFoundError,
    PeerUnavailableError,
    PubsubError,
    ReadOnlyError,
    SettingsError,
    StorageError,
    TopicExistsError,
    TopicNotFoundError,
)
from pubsub.index import IndexServer
from pubsub.index import topics as index_topics
from pubsub.protocol import messages as m
from tests.integration.index.asking import create, delete, lookup, peers, redis, registry_of, topics
from tests.integration.index.conftest import Connect, MakeRegistry, StartIndex, StartPeer
from tests.integration.index.crowd import record_of
from tests.ports import choose_free_port
from tests.waiting import wait_until


async def test_a_created_topic_is_held_by_its_owner_and_found_by_all(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "sensors.temp", policy={"max_age": "1d", "dedupe": "2m"})
    assert (created.owner, created.epoch, created.online) == ("alice", 1, True)
    assert (created.first_offset, created.next_offset) == (0, 0)
    assert 0 < created.id < 2**53
    copy = alice.copies[created.id]
    assert (copy.topic, copy.role, copy.owner, copy.policy) == (
        "sensors.temp",
        "owner",
        "alice",
        {"max_age_seconds": 86400},
    )
    found = await lookup(link, "sensors.temp")
    assert (found.id, found.address, found.policy) == (
        created.id,
        str(alice.address),
        {"max_age_seconds": 86400},
    )
    assert found.created_at == created.created_at
    assert await redis(index, "SMEMBERS", "pubsub:peer:alice:topics") in (["sensors.temp"], {"sensors.temp"})


async def test_by_default_topics_go_to_the_least_loaded_peer(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    link = await open_link(index)
    for name, rate in (("alice", 5.0), ("bob", 1.0), ("carol", 3.0)):
        peer = await start_peer(name, index)
        await peer.beat({"messages_per_second": rate})
    owners = [(await create(link, f"t{n}")).owner for n in range(6)]
    assert owners == ["bob", "carol", "alice"] * 2


async def test_topics_created_at_the_same_time_spread(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    for name in ("alice", "bob", "carol"):
        await start_peer(name, index)
    link = await open_link(index)
    created = await asyncio.gather(*(create(link, f"t{n}") for n in range(30)))
    assert Counter(topic.owner for topic in created) == {"alice": 10, "bob": 10, "carol": 10}


async def test_a_peer_that_cannot_be_reached_gets_no_topic_by_default(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    await alice.register(address=f"127.0.0.1:{choose_free_port()}")
    with pytest.raises(
        PeerUnavailableError, match=r"no peer that is alive can be reached: alice .*--advertise"
    ):
        await create(link, "t")
    await start_peer("zoe", index)
    assert (await create(link, "t")).owner == "zoe"


async def test_a_topic_goes_to_the_peer_that_was_asked_for(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    await start_peer("bob", index)
    link = await open_link(index)
    assert [(await create(link, f"t{n}", on="bob")).owner for n in range(3)] == ["bob"] * 3


async def test_an_unknown_peer_is_refused_saying_what_to_do(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    with pytest.raises(
        PeerNotFoundError, match=r"no peer bob is registered.*pubsub peer serve bob --data DIR"
    ):
        await create(await open_link(index), "t", on="bob")


async def test_a_dead_peer_is_refused_for_good_saying_since_when(
    start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    index = await start_index(ttl_seconds=0.3)
    await start_peer("bob", index)
    link = await open_link(index)

    async def dead() -> bool:
        return not (await peers(link))["bob"].alive

    await wait_until(dead)
    await start_peer("alice", index)
    with pytest.raises(PeerNotFoundError, match=r"bob is not alive \(last heartbeat 0\.\d s ago\)") as caught:
        await create(link, "t", on="bob")
    assert not caught.value.retriable


async def test_without_any_peer_the_way_out_is_named(index: IndexServer, open_link: Connect) -> None:
    link = await open_link(index)
    with pytest.raises(PubsubError) as caught:
        await create(link, "t")
    assert caught.value.retriable


async def test_without_any_live_peer_the_way_out_is_named(
    start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    index = await start_index(ttl_seconds=0.3)
    await start_peer("bob", index)
    link = await open_link(index)

    async def refused() -> str:
        try:
            await create(link, "t", topic_id=11)
        except PeerUnavailableError as error:
            return error.message
        await delete(link, "t")
        return ""

    said = await wait_until(refused)
    assert said == "no peer is alive; start one with: pubsub peer serve NAME --data DIR"


async def test_an_existing_name_is_refused_naming_the_owner(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    link = await open_link(index)
    await create(link, "t")
    with pytest.raises(TopicExistsError, match="peer alice owns it") as caught:
        await create(link, "t")
    assert caught.value.data == {"owner": "alice"}
    with pytest.raises(TopicExistsError):
        await create(link, "t", topic_id=12345)


async def test_who_asks_again_with_the_same_id_gets_the_topic_that_it_created(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "t", topic_id=12345)
    assert created.id == 12345
    alice.copies.clear()  # as if the index had died before it told the owner
    again = await create(link, "t", topic_id=12345)
    assert again.id == 12345
    assert 12345 in alice.copies


@pytest.mark.parametrize("count", [2, 20])
async def test_of_those_who_create_the_same_name_at_once_exactly_one_succeeds(
    index: IndexServer, start_peer: StartPeer, open_link: Connect, count: int
) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    links = [await open_link(index) for _ in range(count)]
    results = await asyncio.gather(*(create(link, "t") for link in links), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert sum(isinstance(result, TopicExistsError) for result in results) == count - 1
    assert len(alice.copies) + len(bob.copies) == 1


async def test_a_creation_that_the_chosen_peer_cannot_carry_out_goes_to_another_one(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    alice.refusal = ReadOnlyError("the disk is full")
    link = await open_link(index)
    created = await create(link, "t", topic_id=77)
    assert (created.owner, bob.copies.keys()) == ("bob", {created.id})
    assert (await create(link, "t", topic_id=77)).id == created.id
    assert await registry_of(index).buried([77]) == {77}


async def test_a_creation_that_fails_leaves_the_name_free_and_buries_the_id(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    alice.refusal = ReadOnlyError("the disk is full")
    with pytest.raises(PeerUnavailableError, match=r"could not be created on peer alice: the disk is full"):
        await create(link, "t", on="alice", topic_id=77)
    assert await topics(link) == {}
    assert await registry_of(index).buried([77]) == {77}
    await wait_until(lambda: alice.dropped == [77])
    alice.refusal = None
    again = await create(link, "t", on="alice", topic_id=77)
    assert again.id not in (0, 77)
    assert (await alice.announce()).deleted == []
    assert (await peers(link))["alice"].topics == 1


async def test_what_a_peer_refuses_for_good_is_not_tried_again(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    alice.refusal = StorageError("no")
    with pytest.raises(StorageError, match="no"):
        await create(link, "t")
    assert await topics(link) == {}


async def test_a_peer_that_died_and_still_seems_alive_gets_no_topic(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    await start_peer("bob", index)
    await alice.close()
    assert (await peers(link))["alice"].alive
    assert [(await create(link, f"t{n}")).owner for n in range(3)] == ["bob"] * 3


async def test_a_creation_goes_on_when_whoever_asked_goes_away(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    alice.gate.clear()
    gone = await open_link(index)
    gone.send_frame(m.CreateTopic(id=1, topic="t"))

    async def claimed() -> bool:
        return "t" in await topics(link)

    await wait_until(claimed)
    gone.abort()
    await gone.closed()
    alice.gate.set()
    await wait_until(lambda: [copy.topic for copy in alice.copies.values()] == ["t"])
    assert (await lookup(link, "t")).id in alice.copies


async def test_a_topic_that_whoever_asked_again_was_given_outlives_the_first_request(
    index: IndexServer, start_peer: StartPeer, open_link: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_topics, "CREATE_SECONDS", 0.5)
    alice, link = await start_peer("alice", index), await open_link(index)
    asked = alice.hold_up(m.CreateCopy, asyncio.Event())
    gone = await open_link(index)
    gone.send_frame(m.CreateTopic(id=1, topic="t", topic_id=77))
    await wait_until(lambda: len(asked) == 1)
    gone.abort()
    await gone.closed()
    assert (await create(link, "t", topic_id=77)).id == 77
    await wait_until(lambda: "pubsub: create t" not in {task.get_name() for task in asyncio.all_tasks()})
    assert (await lookup(link, "t")).id == 77
    assert await registry_of(index).buried([77]) == set()
    assert (await alice.announce()).deleted == []
    assert alice.dropped == []


async def test_who_asks_again_while_the_first_request_is_undone_is_given_a_topic_that_stays(
    index: IndexServer, start_peer: StartPeer, open_link: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_topics, "CREATE_SECONDS", 0.5)
    alice, link = await start_peer("alice", index), await open_link(index)
    second = asyncio.Event()
    asked = alice.hold_up(m.CreateCopy, asyncio.Event(), second)
    gone = await open_link(index)
    gone.send_frame(m.CreateTopic(id=1, topic="t", topic_id=77))
    await wait_until(lambda: len(asked) == 1)
    monkeypatch.setattr(index_topics, "CREATE_SECONDS", 5.0)
    again = asyncio.create_task(create(link, "t", topic_id=77))
    await wait_until(lambda: len(asked) == 2)
    await wait_until(lambda: alice.dropped == [77])
    second.set()
    created = await again
    assert created.id not in (0, 77)
    assert (await alice.announce()).deleted == [77]
    assert (await lookup(link, "t")).id == created.id
    assert created.id in alice.copies


async def test_who_asks_again_for_replicas_changes_nothing_that_their_holders_do_not_know(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    link = await open_link(index)
    for _ in range(3):
        await create(link, "t", on="alice", topic_id=77, policy={"replicas": 2})
    version = (await record_of(index, "t")).version
    for peer in (alice, bob):
        await wait_until(lambda peer=peer: 77 in peer.copies and peer.copies[77].version == version)
    assert (await alice.propose("t", ["alice", "bob"])).applied


async def test_who_asks_again_while_the_owner_is_away_does_not_make_it_look_as_if_a_copy_was_lost(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    await start_peer("bob", index)
    await create(link, "t", on="alice", topic_id=77, policy={"replicas": 2})
    alice.copies.clear()  # as if the index had died before it told the owner
    await alice.leave()
    assert not (await create(link, "t", topic_id=77, policy={"replicas": 2})).online
    await alice.register()
    assert [copy.id for copy in (await alice.announce()).create] == [77]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"topic": "no topic"}, InvalidNameError),
        ({"topic": "t" * 201}, InvalidNameError),
        ({"topic": "t", "on": "b.c"}, InvalidNameError),
        ({"topic": "t", "topic_id": -1}, InvalidRequestError),
        ({"topic": "t", "topic_id": 2**53}, InvalidRequestError),
        ({"topic": "t", "policy": {"x": "y" * 20_000}}, SettingsError),
        ({"topic": "t", "policy": {"max_age": "7x"}}, SettingsError),
        ({"topic": "t", "policy": {"max_bytes": 0}}, SettingsError),
        ({"topic": "orders.dead"}, InvalidNameError),
    ],
)
async def test_a_creation_that_makes_no_sense_is_refused(
    index: IndexServer,
    start_peer: StartPeer,
    open_link: Connect,
    fields: dict[str, object],
    error: type[PubsubError],
) -> None:
    await start_peer("alice", index)
    with pytest.raises(error):
        await create(await open_link(index), **fields)  # type: ignore[arg-type]


async def test_a_deleted_topic_is_gone_and_its_copy_dropped(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "t")
    assert await delete(link, "t") == ""
    assert alice.dropped == [created.id]
    assert await topics(link) == {}
    with pytest.raises(TopicNotFoundError, match="no topic t; create it with: pubsub topic create t"):
        await lookup(link, "t")
    with pytest.raises(TopicNotFoundError):
        await delete(link, "t")


async def test_a_topic_deleted_and_created_anew_has_another_id(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    first = await create(link, "t")
    await delete(link, "t")
    second = await create(link, "t")
    assert first.id != second.id
    assert alice.copies.keys() == {second.id}


async def test_a_deletion_that_the_owner_does_not_confirm_says_so(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "t")
    await alice.close()
    assert "its owner alice did not confirm" in await delete(link, "t")
    assert await registry_of(index).buried([created.id]) == {created.id}


async def test_those_who_delete_at_once_all_end_with_the_topic_gone(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    links = [await open_link(index) for _ in range(5)]
    await create(links[0], "t")
    results = await asyncio.gather(*(delete(link, "t") for link in links), return_exceptions=True)
    assert all(isinstance(result, str | TopicNotFoundError) for result in results)
    assert await topics(links[0]) == {}


@pytest.mark.parametrize("make_registry", ["redis"], indirect=True)
async def test_two_indexes_on_one_redis_are_one_directory_and_one_may_go(
    make_registry: MakeRegistry, start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    here, there = await start_index(make_registry()), await start_index(make_registry())
    alice = await start_peer("alice", here)
    away = await open_link(there)
    created = await create(await open_link(here), "t")
    assert (await lookup(away, "t")).address == str(alice.address)
    await here.close()
    assert (await lookup(away, "t")).id == created.id
    await alice.connect(there)
    assert await alice.beat()
    assert (await create(away, "u")).owner == "alice"
