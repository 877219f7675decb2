import asyncio
from collections.abc import Sequence
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest

from pubsub.errors import InvalidNameError, InvalidRequestError, PeerNotFoundError, PubsubError
from pubsub.index import IndexServer, announcing
from pubsub.index.clock import now_us
from pubsub.protocol import messages as m
from pubsub.registry import CasResult, EmbeddedRegistry, TopicRecord
from tests.integration.index.asking import create, delete, lookup, peers, redis, registry_of, topics
from tests.integration.index.conftest import Connect, MakeRegistry, StartIndex, StartPeer
from tests.integration.index.fake_peer import FakePeer, a_copy


async def contents(index: IndexServer) -> dict[str, Any]:
    """All keys of the registry with what they hold, but for what changes with time."""
    found: dict[str, Any] = {}
    for key in await redis(index, "KEYS", "*"):
        kind = await redis(index, "TYPE", key)
        if kind == "hash":
            flat = await redis(index, "HGETALL", key)
            found[key] = dict(flat if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True))
            for field in (
                ("heartbeat_at", "created_at", "generation", "seen_at")
                if "topic" not in key
                else ("version",)
            ):
                found[key].pop(field, None)
        elif kind == "set":
            found[key] = sorted(await redis(index, "SMEMBERS", key))
        else:
            found[key] = sorted(await redis(index, "ZRANGE", key, 0, -1))
    return found


async def a_record(index: IndexServer, copy: m.CopyState, **changes: Any) -> TopicRecord:
    """Put a record into the registry behind the index's back."""
    record = TopicRecord(
        name=copy.topic, id=copy.id, owner=copy.owner, epoch=copy.epoch, created_at=copy.created_us
    )
    result = await registry_of(index).compare_and_set_topic(
        copy.topic, None, msgspec.structs.replace(record, **changes)
    )
    assert result.current is not None
    return result.current


async def test_a_wiped_registry_is_whole_again_after_one_heartbeat_of_each_peer(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    link = await open_link(index)
    for number in range(10):
        await create(link, f"t.{number}", policy={"max_messages": number + 1})
    before, listed = await contents(index), await topics(link)
    assert {
        "pubsub:peer:alice",
        "pubsub:topics",
        "pubsub:topic:t.3",
        "pubsub:peer:bob:topics",
    } <= before.keys()
    await redis(index, "FLUSHALL")
    for peer in (alice, bob):
        assert not await peer.beat()
        await peer.register()
        assert await peer.announce() == m.Reconciled(id=peer.link.next_id() - 1 if peer.link else 0)
    assert await contents(index) == before
    assert await topics(link) == listed


async def test_an_announcement_in_parts_is_answered_once_and_taken_as_a_whole(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice = await start_peer("alice", index)
    assert alice.link is not None
    copies = [a_copy(f"t.{n}", n + 1) for n in range(2500)]
    for first in range(0, 2000, 500):
        part = m.Announce(
            id=alice.link.next_id(),
            name="alice",
            incarnation=alice.incarnation,
            copies=copies[first : first + 500],
            more=True,
        )
        alice.link.send_frame(part)
    await alice.announce(copies[2000:])
    link = await open_link(index)
    assert len(await topics(link)) == 2500
    assert (await peers(link))["alice"].topics == 2500


async def test_a_topic_deleted_while_its_owner_was_away_is_dropped_and_not_resurrected(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    kept, doomed = await create(link, "kept"), await create(link, "doomed")
    await alice.leave()
    assert "its owner alice is away: the copy there is removed when it returns" in await delete(
        link, "doomed"
    )
    await alice.register()
    assert (await alice.announce()).deleted == [doomed.id]
    assert set(await topics(link)) == {"kept"}
    assert (await lookup(link, "kept")).id == kept.id


async def test_after_a_wipe_even_a_deleted_topic_is_restored_rather_than_dropped(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    await create(link, "t")
    await alice.leave()
    await delete(link, "t")
    await redis(index, "FLUSHALL")
    await alice.register()
    assert (await alice.announce()).deleted == []
    assert set(await topics(link)) == {"t"}


async def test_a_policy_that_its_owner_has_changed_goes_into_the_record(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    created, other = await create(link, "t", policy={"max_messages": 5}), await create(link, "other")
    changed = msgspec.structs.replace(
        alice.copies[created.id], policy={"max_bytes": 7, "of a newer version": 1}
    )
    before = await registry_of(index).lookup(["t", "other"])
    assert await alice.announce([changed, alice.copies[other.id]]) == m.Reconciled(id=ANY)
    after = await registry_of(index).lookup(["t", "other"])
    assert before[0] is not None
    assert after == [
        msgspec.structs.replace(before[0], policy=changed.policy, version=before[0].version + 1),
        before[1],
    ]
    assert (await lookup(link, "t")).policy == changed.policy


async def test_a_deletion_that_was_left_half_done_is_finished(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "t")
    await registry_of(index).bury(created.id, now_us())
    reconciled = await alice.announce()
    assert (reconciled.deleted, reconciled.create) == ([created.id], [])
    assert await topics(link) == {}


async def test_a_copy_whose_name_belongs_to_another_topic_is_set_aside_and_never_deleted(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    link = await open_link(index)
    created = await create(link, "t", on="bob")
    reconciled = await alice.announce([a_copy("t", 5)])
    assert (reconciled.set_aside, reconciled.deleted) == ([5], [])
    assert (await lookup(link, "t")).id == created.id
    assert await bob.beat()
    assert (await peers(link))["alice"].topics == 0


async def test_a_topic_that_its_owner_does_not_hold_is_created_there(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "t", policy={"compact": True})
    alice.copies.clear()
    (copy,) = (await alice.announce()).create
    assert (copy.id, copy.topic, copy.role, copy.owner, copy.epoch) == (created.id, "t", "owner", "alice", 1)
    assert copy.policy == {"compact": True}
    assert (await peers(link))["alice"].topics == 1


async def test_a_topic_created_anew_while_the_old_copy_was_away_replaces_it(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    old = await create(link, "t")
    alice.gate.clear()  # it does not drop its copy in time, nor makes the new one
    await delete(link, "t")
    record = await a_record(index, a_copy("t", 99))
    alice.gate.set()
    alice.copies = {old.id: a_copy("t", old.id)}
    reconciled = await alice.announce()
    assert reconciled.deleted == [old.id]
    assert [copy.id for copy in reconciled.create] == [record.id]


async def test_the_newest_epoch_wins(index: IndexServer, start_peer: StartPeer, open_link: Connect) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    link = await open_link(index)
    await a_record(index, a_copy("t", 5, owner="bob", epoch=3))
    assert (await alice.announce([a_copy("t", 5, epoch=3)])).set_aside == [5]
    assert (await lookup(link, "t")).owner == "bob"
    assert (await alice.announce([a_copy("t", 5, epoch=4)])).set_aside == []
    seen = await lookup(link, "t")
    assert (seen.owner, seen.epoch) == ("alice", 4)
    assert (await bob.announce([a_copy("t", 5, owner="bob", epoch=3)])).set_aside == [5]


async def test_whoever_is_not_registered_is_told_to_register_first(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice = await start_peer("alice")
    await alice.connect(index)
    with pytest.raises(PeerNotFoundError, match="register, then announce again"):
        await alice.announce([a_copy()])
    assert await topics(await open_link(index)) == {}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (a_copy("no topic"), InvalidNameError),
        (a_copy(topic_id=0), InvalidRequestError),
        (a_copy(topic_id=2**60), InvalidRequestError),
        (a_copy(epoch=-1), InvalidRequestError),
        (a_copy(created_us=2**62), InvalidRequestError),
    ],
)
async def test_one_bad_copy_spoils_the_announcement_and_changes_nothing(
    index: IndexServer,
    start_peer: StartPeer,
    open_link: Connect,
    bad: m.CopyState,
    error: type[PubsubError],
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    assert alice.link is not None
    first = m.Announce(
        id=alice.link.next_id(), name="alice", incarnation=alice.incarnation, copies=[bad], more=True
    )
    alice.link.send_frame(first)
    with pytest.raises(error):
        await alice.announce([a_copy("good", 9)])
    assert await topics(link) == {}
    await alice.announce([a_copy("good", 9)])
    assert set(await topics(link)) == {"good"}


@pytest.mark.parametrize("make_registry", ["redis"], indirect=True)
async def test_peers_that_announce_to_two_indexes_at_once_restore_the_same_registry(
    make_registry: MakeRegistry, start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    indexes = [await start_index(make_registry()), await start_index(make_registry())]
    crowd: list[FakePeer] = []
    for number in range(6):
        peer = await start_peer(f"p{number}", indexes[number % 2])
        peer.copies = {
            n: a_copy(f"t.{number}.{n}", n, owner=peer.name)
            for n in range(100 * number + 1, 100 * number + 101)
        }
        crowd.append(peer)
    await asyncio.gather(*(peer.announce() for peer in crowd))
    for index in indexes:
        found = await topics(await open_link(index))
        assert len(found) == 600
        assert all(topic.online for topic in found.values())


class SlowRegistry(EmbeddedRegistry):
    """Takes longer for the copies of this test than their peer is believed alive."""

    async def restore_topics(self, records: Sequence[TopicRecord]) -> list[CasResult]:
        await asyncio.sleep(0.3)
        return await super().restore_topics(records)


@pytest.mark.parametrize("make_registry", ["embedded"], indirect=True)
async def test_a_peer_does_not_die_while_its_long_announcement_is_being_worked_on(
    start_index: StartIndex, start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "_PAGE", 1)
    index = await start_index(SlowRegistry("127.0.0.1:0"), ttl_seconds=0.9)
    alice = await start_peer("alice", index)
    await alice.announce([a_copy(f"t.{n}", n + 1) for n in range(4)])
    assert await alice.beat()


class HeldUpRegistry(EmbeddedRegistry):
    """Has the end of an announcement wait."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:0")
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()

    async def announce_copies(self, *arguments: Any) -> None:
        self.reached.set()
        await self.gate.wait()
        await super().announce_copies(*arguments)


@pytest.mark.parametrize("make_registry", ["embedded"], indirect=True)
async def test_a_topic_created_on_a_peer_while_it_announces_is_known_to_be_there(
    start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    registry = HeldUpRegistry()
    registry.gate.set()
    index = await start_index(registry)
    alice, link = await start_peer("alice", index), await open_link(index)
    registry.gate.clear()
    registry.reached.clear()
    announced = asyncio.create_task(alice.announce([a_copy("old", 5)]))
    await registry.reached.wait()
    await create(link, "new", on="alice")
    registry.gate.set()
    await announced
    assert await registry.topics_of("alice") == {"old", "new"}
