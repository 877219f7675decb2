"""What every registry must do, run against each kind of server that can hold one."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing
from typing import Any

import msgspec
import pytest

from pubsub.errors import ClosedError, RegistryUnavailableError, SettingsError
from pubsub.registry import Event, Heartbeat, PeerRecord, RedisRegistry, SubscriberRecord, TopicRecord
from tests.conformance.registry_backends import BACKENDS, MakeRegistry, start_backend
from tests.waiting import wait_until

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
TTL = 6.0
RESYNC = Event(kind="resync")

_namespaces = itertools.count()


@pytest.fixture(scope="module", params=BACKENDS)
def make_registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeRegistry]:
    """The servers are shared by the tests of this module; each test has a namespace of its own."""
    with ExitStack() as stack:
        yield start_backend(request.param, tmp_path_factory.mktemp("backend"), stack)


@pytest.fixture
async def registry(make_registry: MakeRegistry) -> AsyncIterator[RedisRegistry]:
    registry = make_registry(f"test{next(_namespaces)}")
    await registry.open()
    yield registry
    await registry.close()


async def raw(registry: RedisRegistry, *command: str | int) -> Any:
    """Run a Redis command in which `pubsub:` stands for the registry's namespace."""
    namespace = registry._keys.registry.removesuffix("registry")
    (reply,) = await registry._run(
        tuple(a.replace("pubsub:", namespace) if isinstance(a, str) else a for a in command)
    )
    return reply


async def wipe(registry: RedisRegistry) -> None:
    """Lose everything, as FLUSHALL does, without a trace for the others on the server."""
    for name in ("registry", "peers", "topics", "deleted"):
        for member in (
            await raw(registry, "ZRANGE", f"pubsub:{name}", 0, -1) if name in ("peers", "topics") else ()
        ):
            kind = name.removesuffix("s")
            await raw(registry, "DEL", f"pubsub:{kind}:{member}")
            await raw(registry, "DEL", f"pubsub:{kind}:{member}:topics")
        await raw(registry, "DEL", f"pubsub:{name}")


def a_peer(name: str = "alice", incarnation: str = "aa.1", **changes: Any) -> PeerRecord:
    peer = PeerRecord(
        name=name,
        address="10.0.0.1:7000",
        incarnation=incarnation,
        version="0.1.0",
        started_at=NOW - SECOND,
        heartbeat_at=NOW,
        load={"topics": 3, "cpu": 0.25},
        reachable=True,
    )
    return msgspec.structs.replace(peer, **changes)


def a_topic(name: str = "sensors.temp", **changes: Any) -> TopicRecord:
    topic = TopicRecord(
        name=name,
        id=2**53 - 1,
        owner="alice",
        epoch=1,
        in_sync=["alice"],
        replicas=["alice", "bob"],
        policy={"retention": {"max_bytes": 1000}, "note": 'naïve "quotes"'},
        created_at=NOW,
    )
    return msgspec.structs.replace(topic, **changes)


def a_beat(name: str = "alice", incarnation: str = "aa.1", **load: float) -> Heartbeat:
    return Heartbeat(name=name, incarnation=incarnation, load=load)


async def create(registry: RedisRegistry, topic: TopicRecord) -> TopicRecord:
    result = await registry.compare_and_set_topic(topic.name, None, topic)
    assert result.applied
    assert result.current is not None
    return result.current


# Generations


async def test_generation_stays_the_same_until_the_registry_is_wiped(registry: RedisRegistry) -> None:
    first = await registry.generation(NOW)
    assert await registry.generation(NOW + SECOND) == first
    assert first.created_at == NOW
    await wipe(registry)
    second = await registry.generation(NOW + 2 * SECOND)
    assert second.id != first.id
    assert second.created_at == NOW + 2 * SECOND


async def test_indexes_that_start_at_once_agree_on_the_generation(registry: RedisRegistry) -> None:
    found = await asyncio.gather(*(registry.generation(NOW + i) for i in range(10)))
    assert len({generation.id for generation in found}) == 1


async def test_registry_of_a_newer_version_is_refused(registry: RedisRegistry) -> None:
    await registry.generation(NOW)
    await raw(registry, "HSET", "pubsub:registry", "schema", 99)
    with pytest.raises(SettingsError, match="newer version"):
        await registry.generation(NOW)


# Peers


async def test_registered_peer_is_found_alive_with_all_that_it_said(registry: RedisRegistry) -> None:
    record = a_peer()
    result = await registry.register_peer(record, TTL, NOW)
    assert result.outcome == "registered"
    (state,) = await registry.peers(NOW)
    assert state.record == record
    assert state.alive
    assert state.deadline_at == NOW + 6 * SECOND
    assert await registry.peer("alice", NOW) == state
    assert await registry.peer("bob", NOW) is None


async def test_unreachable_peer_is_recorded_as_such(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(reachable=False), TTL, NOW)
    (state,) = await registry.peers(NOW)
    assert state.record is not None
    assert not state.record.reachable


async def test_peer_record_carries_a_real_ttl_that_heartbeats_refresh(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), 2.0, NOW)
    assert 0 < await raw(registry, "PTTL", "pubsub:peer:alice") <= 2000
    await registry.heartbeat([a_beat()], TTL, NOW)
    assert 2000 < await raw(registry, "PTTL", "pubsub:peer:alice") <= 6000


async def test_name_held_by_another_live_data_directory_is_refused_naming_the_holder(
    registry: RedisRegistry,
) -> None:
    holder = a_peer(incarnation="aa.9")
    await registry.register_peer(holder, TTL, NOW)
    result = await registry.register_peer(a_peer(incarnation="bb.1", address="10.0.0.2:7000"), TTL, NOW)
    assert result.outcome == "held"
    assert result.holder == holder
    (state,) = await registry.peers(NOW)
    assert state.record == holder


async def test_name_of_an_expired_record_is_free(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), 0.05, NOW)

    async def taken() -> bool:
        return (await registry.register_peer(a_peer(incarnation="bb.1"), TTL, NOW)).outcome == "registered"

    await wait_until(taken)


async def test_restarted_data_directory_takes_its_name_back_at_once(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(incarnation="aa.9"), TTL, NOW)
    moved = a_peer(incarnation="aa.10", address="10.0.0.9:7000", load={})
    assert (await registry.register_peer(moved, TTL, NOW)).outcome == "registered"
    (state,) = await registry.peers(NOW)
    assert state.record == moved  # nothing of the older record is left, such as its load


async def test_same_incarnation_may_register_again(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), TTL, NOW)
    assert (await registry.register_peer(a_peer(), TTL, NOW)).outcome == "registered"


async def test_earlier_start_does_not_displace_a_later_one(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(incarnation="aa.10"), TTL, NOW)
    result = await registry.register_peer(a_peer(incarnation="aa.9"), TTL, NOW)
    assert result.outcome == "superseded"
    assert result.holder is not None
    assert result.holder.incarnation == "aa.10"


async def test_dead_peer_is_listed_as_not_alive_even_when_its_record_has_expired(
    registry: RedisRegistry,
) -> None:
    await registry.register_peer(a_peer(), TTL, NOW)
    (state,) = await registry.peers(NOW + 6 * SECOND)
    assert not state.alive
    assert state.record is not None
    await raw(registry, "DEL", "pubsub:peer:alice")
    (state,) = await registry.peers(NOW)
    assert not state.alive
    assert state.record is None


async def test_heartbeat_moves_the_deadline_and_keeps_the_load(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), TTL, NOW)
    assert await registry.heartbeat([a_beat(topics=4, cpu=1e-07)], TTL, NOW + 2 * SECOND) == ["ok"]
    (state,) = await registry.peers(NOW + 7 * SECOND)
    assert state.alive
    assert state.deadline_at == NOW + 8 * SECOND
    assert state.record is not None
    assert state.record.heartbeat_at == NOW + 2 * SECOND
    assert state.record.load == {"topics": 4, "cpu": 1e-07}


async def test_heartbeat_to_a_wiped_registry_is_missing_and_leaves_nothing(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), TTL, NOW)
    await wipe(registry)
    assert await registry.heartbeat([a_beat()], TTL, NOW) == ["missing"]
    assert await raw(registry, "EXISTS", "pubsub:peer:alice") == 0
    assert await raw(registry, "ZCARD", "pubsub:peers") == 0


async def test_heartbeat_of_an_earlier_incarnation_is_superseded_and_changes_nothing(
    registry: RedisRegistry,
) -> None:
    await registry.register_peer(a_peer(incarnation="aa.2"), TTL, NOW)
    before = await registry.peers(NOW)
    assert await registry.heartbeat([a_beat(incarnation="aa.1", cpu=9)], TTL, NOW + SECOND) == ["superseded"]
    assert await registry.peers(NOW) == before


async def test_heartbeats_of_many_peers_are_told_apart(registry: RedisRegistry) -> None:
    for number in range(0, 1200, 3):
        await registry.register_peer(a_peer(f"p{number}", f"{number}.1"), TTL, NOW)
    beats = [a_beat(f"p{number}", f"{number}.1", cpu=number) for number in range(1200)]
    outcomes = await registry.heartbeat(beats, TTL, NOW + SECOND)
    assert outcomes == ["missing" if number % 3 else "ok" for number in range(1200)]
    states = {state.name: state for state in await registry.peers(NOW + SECOND)}
    assert len(states) == 400
    record = states["p1197"].record
    assert record is not None
    assert record.load["cpu"] == 1197


async def test_no_heartbeats_are_no_work(registry: RedisRegistry) -> None:
    assert await registry.heartbeat([], TTL, NOW) == []


async def test_goodbye_forgets_the_peer_but_not_what_it_holds(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), TTL, NOW)
    await registry.announce_copies("alice", ["a", "b"], [])
    assert await registry.remove_peer("alice", "aa.1")
    assert await registry.peers(NOW) == []
    assert await raw(registry, "EXISTS", "pubsub:peer:alice") == 0
    assert await registry.topics_of("alice") == {"a", "b"}
    assert await registry.remove_peer("alice", "aa.1")  # twice, when the reply got lost


async def test_late_goodbye_of_an_earlier_incarnation_changes_nothing(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(incarnation="aa.2"), TTL, NOW)
    assert not await registry.remove_peer("alice", "aa.1")
    (state,) = await registry.peers(NOW)
    assert state.alive


async def test_peer_that_never_came_back_is_forgotten_after_a_month(registry: RedisRegistry) -> None:
    month = 31 * 24 * 3600 * SECOND
    await registry.register_peer(a_peer("gone", "gg.1"), TTL, NOW)
    await registry.announce_copies("gone", ["a"], [])
    await registry.register_peer(a_peer(), TTL, NOW + month)
    assert [state.name for state in await registry.peers(NOW + month)] == ["alice"]
    assert await registry.topics_of("gone") == set()


async def test_damaged_peer_record_does_not_hide_the_others(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), TTL, NOW)
    await registry.register_peer(a_peer("bob", "bb.1"), TTL, NOW)
    await raw(
        registry,
        "HSET",
        "pubsub:peer:bob",
        "started_at",
        "yesterday \udcff".encode("utf-8", "replace").decode(),
    )
    alice, bob = await registry.peers(NOW)
    assert alice.alive
    assert (bob.alive, bob.record) == (False, None)


# Topics


async def test_topics_are_counted(registry: RedisRegistry) -> None:
    assert await registry.count_topics() == 0
    created = (await registry.compare_and_set_topic("a", None, a_topic("a"))).current
    await registry.restore_topics([a_topic("b"), a_topic("c")])
    assert await registry.count_topics() == 3
    await registry.compare_and_set_topic("a", created, None)
    assert await registry.count_topics() == 2


async def test_created_topic_is_found_with_all_that_was_said(registry: RedisRegistry) -> None:
    topic = await create(registry, a_topic())
    assert topic == a_topic(version=1)
    assert await registry.lookup(["nothing", "sensors.temp"]) == [None, topic]
    assert await registry.topics() == [topic]
    assert await registry.topics_of("alice") == {"sensors.temp"}


async def test_topic_can_be_read_with_redis_cli(registry: RedisRegistry) -> None:
    await create(registry, a_topic(policy={"ttl": 5}))
    assert await raw(registry, "HGETALL", "pubsub:topic:sensors.temp") == {
        "id": "9007199254740991",
        "owner": "alice",
        "epoch": "1",
        "version": "1",
        "in_sync": '["alice"]',
        "replicas": '["alice","bob"]',
        "policy": '{"ttl":5}',
        "created_at": str(NOW),
    }
    assert await raw(registry, "ZRANGE", "pubsub:topics", 0, -1, "WITHSCORES") == ["sensors.temp", "0"]


async def test_existing_topic_is_not_created_again(registry: RedisRegistry) -> None:
    topic = await create(registry, a_topic())
    result = await registry.compare_and_set_topic(topic.name, None, a_topic(id=7))
    assert not result.applied
    assert result.current == topic


async def test_topic_changes_only_from_the_version_that_was_read(registry: RedisRegistry) -> None:
    first = await create(registry, a_topic())
    moved = msgspec.structs.replace(first, owner="bob", epoch=2, in_sync=["bob"])
    result = await registry.compare_and_set_topic(first.name, first, moved)
    assert result.applied
    assert result.current == msgspec.structs.replace(moved, version=2)
    assert await registry.topics_of("bob") == {"sensors.temp"}
    late = await registry.compare_and_set_topic(
        first.name, first, msgspec.structs.replace(first, owner="carol")
    )
    assert not late.applied
    assert late.current == result.current


async def test_of_many_that_change_a_topic_at_once_one_wins(registry: RedisRegistry) -> None:
    first = await create(registry, a_topic())
    results = await asyncio.gather(
        *(
            registry.compare_and_set_topic(
                first.name, first, msgspec.structs.replace(first, owner=f"p{i}", epoch=2)
            )
            for i in range(20)
        )
    )
    (won,) = [result for result in results if result.applied]
    assert all(result.current == won.current for result in results)


async def test_change_that_is_sent_twice_counts_as_done_once(registry: RedisRegistry) -> None:
    first = await create(registry, a_topic())
    assert (await registry.compare_and_set_topic(first.name, None, a_topic())).applied
    changed = msgspec.structs.replace(first, epoch=2)
    for _ in range(2):
        result = await registry.compare_and_set_topic(first.name, first, changed)
        assert result.applied
        assert result.current == msgspec.structs.replace(changed, version=2)
    assert result.current is not None
    for _ in range(2):
        assert (await registry.compare_and_set_topic(first.name, result.current, None)).applied


async def test_deleted_topic_is_gone_everywhere(registry: RedisRegistry) -> None:
    topic = await create(registry, a_topic())
    await registry.announce_copies("bob", ["sensors.temp", "other"], {"sensors.temp"})
    result = await registry.compare_and_set_topic(topic.name, topic, None)
    assert result.applied
    assert result.current is None
    assert await registry.topics() == []
    assert await registry.lookup([topic.name]) == [None]
    assert await registry.topics_of("alice") == set()
    assert await registry.topics_of("bob") == {"other"}
    assert await raw(registry, "ZCARD", "pubsub:topics") == 0


async def test_topic_created_anew_is_never_taken_for_the_old_one(registry: RedisRegistry) -> None:
    old = await create(registry, a_topic(id=1))
    await registry.compare_and_set_topic(old.name, old, None)
    new = await create(registry, a_topic(id=2))
    assert new.version == old.version
    for record in (msgspec.structs.replace(old, owner="bob"), None):
        result = await registry.compare_and_set_topic(old.name, old, record)
        assert not result.applied
        assert result.current == new


async def test_damaged_topic_record_counts_as_absent_and_is_restored(registry: RedisRegistry) -> None:
    topic = await create(registry, a_topic())
    for field, value in (("id", "x"), ("epoch", ""), ("version", "1.5")):
        await raw(registry, "HSET", "pubsub:topic:sensors.temp", field, value)
        assert await registry.lookup([topic.name]) == [None]
        (result,) = await registry.restore_topics([topic])
        assert result.applied
        assert await registry.lookup([topic.name]) == [topic]


async def test_nonsense_in_the_lists_of_a_topic_makes_nobody_an_heir(registry: RedisRegistry) -> None:
    await create(registry, a_topic())
    await raw(
        registry, "HSET", "pubsub:topic:sensors.temp", "in_sync", "alice, bob", "replicas", "7", "policy", "["
    )
    (topic,) = await registry.topics()
    assert (topic.in_sync, topic.replicas, topic.policy) == ([], [], {})


async def test_restoring_creates_what_is_absent_and_tells_what_holds(registry: RedisRegistry) -> None:
    kept = await create(registry, a_topic("b", epoch=5))
    results = await registry.restore_topics([a_topic("a"), a_topic("b", epoch=4), a_topic("c")])
    assert [result.applied for result in results] == [True, False, True]
    assert results[1].current == kept
    assert [topic.name for topic in await registry.topics()] == ["a", "b", "c"]


async def test_restoring_thousands_of_topics_is_one_call(registry: RedisRegistry) -> None:
    records = [a_topic(f"many.t{number:04}", id=number + 1) for number in range(2500)]
    results = await registry.restore_topics(records)
    assert all(result.applied for result in results)
    assert await registry.topics("many.") == [
        msgspec.structs.replace(record, version=1) for record in records
    ]


async def test_restoring_lists_a_topic_whose_creator_died_half_way(registry: RedisRegistry) -> None:
    topic = await create(registry, a_topic())
    await raw(registry, "DEL", "pubsub:topics")
    await registry.restore_topics([topic])
    assert await registry.topics() == [topic]


async def test_listed_name_without_a_record_is_passed_over(registry: RedisRegistry) -> None:
    await raw(registry, "ZADD", "pubsub:topics", 0, "a", 0, "c")
    await create(registry, a_topic("b"))
    assert [topic.name for topic in await registry.topics()] == ["b"]


async def test_topics_are_listed_by_prefix_in_order_and_in_pages(registry: RedisRegistry) -> None:
    names = ["a", "a-b", "a.a", "a.b", "a.b.c", "a_b", "ab", "b"]
    await registry.restore_topics([a_topic(name) for name in names])

    async def listed(prefix: str = "", **how: Any) -> list[str]:
        return [topic.name for topic in await registry.topics(prefix, **how)]

    assert await listed() == sorted(names)
    assert await listed("a.") == ["a.a", "a.b", "a.b.c"]
    assert await listed("a.b") == ["a.b", "a.b.c"]
    assert await listed("z") == []
    assert await listed(limit=3) == sorted(names)[:3]
    assert await listed(limit=3, after="a.a") == ["a.b", "a.b.c", "a_b"]
    assert await listed("a.", after="a.a", limit=1) == ["a.b"]
    assert await listed("a.", after="a.b.c") == []
    assert await listed("b", after="a") == ["b"]


async def test_announced_copies_replace_what_was_known(registry: RedisRegistry) -> None:
    await registry.announce_copies("alice", (f"t{number}" for number in range(3000)), [])
    known = await registry.topics_of("alice")
    assert len(known) == 3000
    await registry.announce_copies("alice", ["b"], known)
    assert await registry.topics_of("alice") == {"b"}
    await registry.register_peer(a_peer(), TTL, NOW)
    assert [state.topics for state in await registry.peers(NOW)] == [1]
    await registry.announce_copies("alice", [], {"b"})
    assert await registry.topics_of("alice") == set()


async def test_what_was_noted_of_copies_since_an_announcement_began_stays(registry: RedisRegistry) -> None:
    going = await create(registry, a_topic("going", replicas=["alice"]))
    known = await registry.topics_of("alice")
    await create(registry, a_topic("new", id=2))
    await registry.compare_and_set_topic(
        "going", going, msgspec.structs.replace(going, owner="bob", replicas=["bob"], epoch=2)
    )
    await registry.announce_copies("alice", ["going", "other"], known)
    assert await registry.topics_of("alice") == {"new", "other"}


# Tombstones


async def test_deleted_ids_are_remembered_for_thirty_days(registry: RedisRegistry) -> None:
    day = 24 * 3600 * SECOND
    await registry.bury(2**53 - 1, NOW)
    await registry.bury(5, NOW + 20 * day)
    assert await registry.buried([4, 5, 2**53 - 1]) == {5, 2**53 - 1}
    await registry.bury(6, NOW + 31 * day)
    assert await registry.buried([4, 5, 6, 2**53 - 1]) == {5, 6}
    assert await registry.buried([]) == set()


# Subscribers


async def test_each_peer_reports_its_own_subscribers_only(registry: RedisRegistry) -> None:
    await registry.report_subscribers("alice", {"t": {"s1": NOW, "s2": NOW + 1}}, TTL, NOW)
    await registry.report_subscribers("bob", {"t": {"s3": NOW + 2}}, TTL, NOW)
    await registry.report_subscribers("alice", {"t": {"s2": NOW + 1}}, TTL, NOW)
    until = NOW + 6 * SECOND
    assert await registry.subscribers("t", NOW) == {
        "s2": SubscriberRecord(peer="alice", since=NOW + 1, until=until),
        "s3": SubscriberRecord(peer="bob", since=NOW + 2, until=until),
    }
    assert 0 < await raw(registry, "PTTL", "pubsub:topic:t:subscribers") <= 6000


async def test_subscribers_of_a_peer_that_stopped_reporting_are_dropped(registry: RedisRegistry) -> None:
    await registry.report_subscribers("alice", {"t": {"s1": NOW}}, TTL, NOW)
    later = NOW + 7 * SECOND
    assert await registry.subscribers("t", later) == {}
    await raw(registry, "HSET", "pubsub:topic:t:subscribers", "junk", "{", "more", "[1]")
    await registry.report_subscribers("bob", {"t": {"s2": later}}, TTL, later)
    assert list(await raw(registry, "HGETALL", "pubsub:topic:t:subscribers")) == ["s2"]


# Events


async def test_watcher_is_told_first_to_look_and_then_what_changed(registry: RedisRegistry) -> None:
    topic_changed, peer_changed = (
        [Event(kind="topic", name="sensors.temp", replicated=True)],
        [Event(kind="peer", name="alice")],
    )
    async with aclosing(registry.watch()) as batches, asyncio.timeout(10):
        assert await anext(batches) == [RESYNC]
        topic = await create(registry, a_topic())
        assert await anext(batches) == topic_changed
        await registry.register_peer(a_peer(), TTL, NOW)
        assert await anext(batches) == peer_changed
        await registry.heartbeat([a_beat()], TTL, NOW)
        await registry.compare_and_set_topic(topic.name, topic, None)
        assert await anext(batches) == [Event(kind="topic", name="sensors.temp")]
        await registry.remove_peer("alice", "aa.1")
        assert await anext(batches) == peer_changed


async def test_what_changes_often_is_told_once_to_a_slow_watcher(registry: RedisRegistry) -> None:
    async with aclosing(registry.watch()) as batches, asyncio.timeout(10):
        assert await anext(batches) == [RESYNC]
        topic = await create(registry, a_topic("a"))
        for epoch in range(2, 10):
            wanted = msgspec.structs.replace(topic, epoch=epoch)
            topic = (await registry.compare_and_set_topic("a", topic, wanted)).current or topic
        await create(registry, a_topic("z"))
        seen: list[Event] = []
        while not seen or seen[-1].name != "z":
            seen += await anext(batches)
    assert len(seen) < 10
    assert {event.name for event in seen} == {"a", "z"}


async def test_what_did_not_change_is_not_told(registry: RedisRegistry) -> None:
    async with aclosing(registry.watch()) as batches, asyncio.timeout(10):
        assert await anext(batches) == [RESYNC]
        await create(registry, a_topic("a"))
        await registry.register_peer(a_peer(incarnation="aa.2"), TTL, NOW)
        seen: list[Event] = []
        while len(seen) < 2:
            seen += await anext(batches)
        await registry.compare_and_set_topic("a", None, a_topic("a", id=7))
        await registry.register_peer(a_peer(incarnation="bb.1"), TTL, NOW)
        await registry.remove_peer("alice", "aa.1")
        await create(registry, a_topic("z"))
        assert await anext(batches) == [Event(kind="topic", name="z", replicated=True)]


async def test_several_watchers_are_all_told(registry: RedisRegistry) -> None:
    async with aclosing(registry.watch()) as one, aclosing(registry.watch()) as two:
        assert await anext(one) == await anext(two) == [RESYNC]
        await create(registry, a_topic())
        assert (
            await anext(one)
            == await anext(two)
            == [Event(kind="topic", name="sensors.temp", replicated=True)]
        )


async def test_event_that_cannot_be_read_means_look_at_everything(registry: RedisRegistry) -> None:
    async with aclosing(registry.watch()) as batches, asyncio.timeout(10):
        assert await anext(batches) == [RESYNC]
        await raw(registry, "PUBLISH", "pubsub:events", "hello from redis-cli")
        assert await anext(batches) == [RESYNC]


# The server


async def test_scripts_that_the_server_forgot_are_loaded_again(registry: RedisRegistry) -> None:
    await create(registry, a_topic())
    await registry._client.script_flush()  # type: ignore[union-attr]
    results = await registry.restore_topics([a_topic(f"t{i}") for i in range(3)])
    assert all(result.applied for result in results)


async def test_key_of_a_wrong_type_is_an_error_that_names_the_registry(registry: RedisRegistry) -> None:
    await raw(registry, "SET", "pubsub:topic:sensors.temp", "oops")
    with pytest.raises(RegistryUnavailableError, match="WRONGTYPE") as caught:
        await registry.compare_and_set_topic("sensors.temp", None, a_topic())
    assert caught.value.retriable
    await registry.lookup(["other"])


async def test_many_calls_at_once_are_all_answered(registry: RedisRegistry) -> None:
    found = await asyncio.gather(*(registry.lookup([f"t{number}"]) for number in range(500)))
    assert found == [[None]] * 500


async def test_many_that_look_at_the_registry_at_once_leave_connections_for_others(
    registry: RedisRegistry,
) -> None:
    generations, found = await asyncio.gather(
        asyncio.gather(*(registry.generation(NOW) for _ in range(300))),
        asyncio.gather(*(registry.lookup(["t"]) for _ in range(300))),
    )
    assert len({generation.id for generation in generations}) == 1
    assert found == [[None]] * 300


async def test_closed_registry_says_so_and_may_be_closed_twice(make_registry: MakeRegistry) -> None:
    registry = make_registry("closed")
    with pytest.raises(ClosedError):
        await registry.generation(NOW)
    await registry.open()
    await registry.generation(NOW)
    await registry.close()
    await registry.close()
    with pytest.raises(ClosedError):
        await registry.generation(NOW)


# Replicas: what the controller needs


async def test_many_records_are_compared_and_set_each_by_itself(registry: RedisRegistry) -> None:
    read = [await create(registry, a_topic(f"t.{n}", id=n + 1)) for n in range(5)]
    stale = msgspec.structs.replace(read[2], version=9)
    changes = [(r, msgspec.structs.replace(r, owner="bob", epoch=2)) for r in (*read[:2], stale, *read[3:])]
    results = await registry.compare_and_set_topics(changes)
    assert [result.applied for result in results] == [True, True, False, True, True]
    assert results[2].current == read[2]
    found = await registry.lookup([r.name for r in read])
    assert [(r.owner, r.epoch) for r in found if r] == [("bob", 2)] * 2 + [("alice", 1)] + [("bob", 2)] * 2
    assert [result.current for result in results] == found
    assert await registry.compare_and_set_topics([]) == []


async def test_who_is_to_hold_a_copy_is_known_from_the_record(registry: RedisRegistry) -> None:
    topic = await create(registry, a_topic(replicas=["alice", "bob"]))
    assert [await registry.topics_of(peer) for peer in ("alice", "bob")] == [{"sensors.temp"}] * 2
    moved = msgspec.structs.replace(topic, owner="carol", replicas=["bob", "carol"], epoch=2)
    (result,) = await registry.compare_and_set_topics([(topic, moved)])
    assert result.applied
    found = [await registry.topics_of(peer) for peer in ("alice", "bob", "carol")]
    assert found == [set(), {"sensors.temp"}, {"sensors.temp"}]


async def test_a_restored_record_has_the_version_that_is_known_of_it_and_grows_from_there(
    registry: RedisRegistry,
) -> None:
    (result,) = await registry.restore_topics([a_topic(version=41, leaving=["bob"])])
    assert result.current == a_topic(version=41, leaving=["bob"])
    later = await registry.compare_and_set_topic("sensors.temp", result.current, a_topic(version=7))
    assert later.current == a_topic(version=42)


async def test_a_zone_and_the_mark_of_draining_are_found_with_the_peer(registry: RedisRegistry) -> None:
    assert not await registry.set_draining("alice", True)
    await registry.register_peer(a_peer(zone="rack-1"), TTL, NOW)
    assert await registry.set_draining("alice", True)
    (state,) = await registry.peers(NOW)
    assert state.record == a_peer(zone="rack-1", draining=True)
    await registry.set_draining("alice", False)
    (state,) = await registry.peers(NOW)
    assert state.record == a_peer(zone="rack-1")


async def test_draining_lasts_until_the_peer_is_started_anew(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), TTL, NOW)
    await registry.set_draining("alice", True)
    for incarnation, draining in (("aa.1", True), ("aa.2", False)):
        await registry.register_peer(a_peer(incarnation=incarnation), TTL, NOW)
        state = await registry.peer("alice", NOW)
        assert state is not None
        assert state.record is not None
        assert state.record.draining is draining


async def test_a_registry_that_was_set_back_begins_a_new_life_once(registry: RedisRegistry) -> None:
    first = await registry.generation(NOW)
    snapshot = await raw(registry, "HGETALL", "pubsub:registry")
    assert await registry.generation(NOW + SECOND) == first
    fields = snapshot if isinstance(snapshot, list) else [text for pair in snapshot.items() for text in pair]
    await raw(registry, "DEL", "pubsub:registry")
    await raw(registry, "HSET", "pubsub:registry", *fields)
    second = await registry.generation(NOW + 2 * SECOND)
    assert second.id != first.id
    assert second.created_at == NOW + 2 * SECOND
    assert await registry.generation(NOW + 3 * SECOND) == second


async def test_a_clock_that_is_behind_is_not_taken_for_a_registry_that_was_set_back(
    registry: RedisRegistry,
) -> None:
    first = await registry.generation(NOW)
    assert await registry.generation(NOW - 5 * SECOND) == first
    assert await registry.generation(NOW) == first


async def test_replicated_topics_are_listed_from_before_they_are_written_until_they_are_not_any_more(
    registry: RedisRegistry,
) -> None:
    alone, many = a_topic("alone", replicas=["alice"], policy={}), a_topic("many", replicas=["alice", "bob"])
    await create(registry, alone)
    two = await create(registry, many)
    assert await registry.replicated_topics() == {"many"}
    (wanted,) = await registry.restore_topics([a_topic("wanted", policy={"replicas": 3}, replicas=["alice"])])
    assert await registry.replicated_topics() == {"many", "wanted"}
    result = await registry.compare_and_set_topic(
        "many", two, msgspec.structs.replace(two, replicas=["alice"])
    )
    assert result.applied
    await registry.compare_and_set_topic("wanted", wanted.current, None)
    assert await registry.replicated_topics() == set()


async def test_deadlines_are_those_of_the_peers(registry: RedisRegistry) -> None:
    await registry.register_peer(a_peer(), TTL, NOW)
    await registry.register_peer(a_peer("bob", "bb.1"), TTL, NOW + SECOND)
    assert await registry.deadlines() == {"alice": NOW + 6 * SECOND, "bob": NOW + 7 * SECOND}
    assert await registry.deadlines(["bob", "nobody"]) == {"bob": NOW + 7 * SECOND}
    assert await registry.deadlines([]) == {}
    assert [state.name for state in await registry.peers(NOW, ["nobody", "bob"])] == ["bob"]


async def test_a_registry_in_another_process_begins_a_new_life_once(
    registry: RedisRegistry,
) -> None:
    first = await registry.generation(NOW)
    if not await raw(registry, "HEXISTS", "pubsub:registry", "process"):
        assert (
            await registry._process() == ""
        )  # embedded, or a cluster: it tells of no process, or of several
        return
    await raw(registry, "HSET", "pubsub:registry", "process", "another one")
    second = await registry.generation(NOW + SECOND)
    assert second.id != first.id
    assert await registry.generation(NOW + 2 * SECOND) == second
