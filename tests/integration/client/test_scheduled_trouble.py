"""Messages held for later where the owner cannot move them: a full disk, a topic that changes hands, an end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import pubsub
from pubsub.config import PeerSettings
from pubsub.peer import schedule
from pubsub.protocol.messages import CopyState
from pubsub.storage.topic import Topic
from tests.integration.client.conftest import NOBODY, make_topic
from tests.integration.client.scheduling import HOUR, Clock, held, in_file, stored
from tests.integration.storage.stores import writer_held
from tests.waiting import wait_until


async def test_a_file_that_cannot_be_written_to_delays_what_is_due_and_loses_nothing(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(schedule, "RETRY_SECONDS", 0.02)
    await peer.publish_many("a.b", [b"%d" % n for n in range(100)], delay_seconds=10)
    refused = 0
    append = peer._node.store.append

    def full(work):  # type: ignore[no-untyped-def]
        nonlocal refused
        refused += 1
        work.done(work, 0, False, pubsub.ReadOnlyError("the disk is full"))

    monkeypatch.setattr(peer._node.store, "append", full)
    clock.forward(11)
    await wait_until(lambda: refused > 3)
    assert held(peer) == 100
    monkeypatch.setattr(peer._node.store, "append", append)

    async def all_there() -> bool:
        return await stored(peer) == [b"%d" % n for n in range(100)]

    await wait_until(all_there)
    assert held(peer) == 0


async def test_what_is_due_of_other_topics_comes_though_one_changes_hands_while_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(
        schedule, "ROUND_BYTES", 1
    )  # the first message fills a round: the others are expected again
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        names = [f"t{n}" for n in range(20)]
        for name in ("gone", *names):
            await make_topic(peer, name)
            await peer.publish(name, b"x", delay_seconds=10 if name != "t0" else 9)
        store = peer._node.store
        gone, look_for_due = store.topics["gone"], store.due

        async def due(*bounds: Any) -> Any:
            found = await look_for_due(*bounds)
            if gone.owned:
                await peer._node.holding.take(handed_to_bob(gone))
            return found

        monkeypatch.setattr(store, "due", due)
        clock.forward(11)

        async def all_there() -> bool:
            return all([await stored(peer, name) == [b"x"] for name in names])

        await wait_until(all_there)
        assert in_file(peer, "gone") == 1


def handed_to_bob(topic: Topic) -> CopyState:
    both = ["bob", "alice"]
    return CopyState(
        id=topic.id,
        topic=topic.name,
        role="replica",
        owner="bob",
        epoch=topic.epoch + 1,
        replicas=both,
        in_sync=both,
    )


async def test_what_is_held_while_a_topic_is_being_taken_over_comes_in_time(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    await peer.publish("a.b", b"hour", delay_seconds=HOUR)
    node = peer._node
    topic, look = node.store.topics["a.b"], node.store.look
    node.schedule.leave_topic(topic)
    looked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*query: Any) -> Any:
        found = await look(*query)
        looked.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(node.store, "look", slow)
    taking = asyncio.create_task(node.schedule.take_topic(topic))
    await wait_until(lambda: looked.is_set() or taking.done())
    await peer.publish("a.b", b"soon", delay_seconds=10)
    go_on.set()
    await taking
    assert node.schedule.count(topic) == 2
    clock.forward(11)

    async def soon_is_there() -> bool:
        return await stored(peer) == [b"soon"]

    await wait_until(soon_is_there)
    assert held(peer) == 1


async def test_a_topic_that_is_taken_over_counts_what_it_holds_once(peer: pubsub.Peer) -> None:
    await peer.publish("a.b", b"1", delay_seconds=HOUR)
    node = peer._node
    topic = node.store.topics["a.b"]
    node.schedule.leave_topic(topic)
    async with writer_held(node.store):
        publishing = asyncio.create_task(peer.publish("a.b", b"2", delay_seconds=HOUR))
        await wait_until(lambda: node.store.queued_bytes)
        taking = asyncio.create_task(node.schedule.take_topic(topic))
        await asyncio.sleep(0)
        after = asyncio.create_task(peer.publish("a.b", b"3", delay_seconds=HOUR))
        await asyncio.sleep(0)
    await asyncio.gather(publishing, taking, after)
    assert node.schedule.count(topic) == 3


async def test_closing_waits_for_what_is_being_moved_as_long_as_it_may_and_no_longer(
    tmp_path: Path, clock: Clock
) -> None:
    settings = PeerSettings(drain_seconds=0.1)
    peer = pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY, peer_settings=settings)
    await peer.open()
    await make_topic(peer, "a.b")
    await peer.publish("a.b", b"due", delay_seconds=10)
    async with writer_held(peer._node.store):
        clock.forward(11)
        await wait_until(lambda: peer._node.schedule._moving is not None)
        closing = asyncio.create_task(peer.close())
        await wait_until(lambda: peer._node.schedule._moving is None, 5, "the round is given up")
    await closing
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as again:

        async def in_one_place() -> bool:
            return (await stored(again), held(again)) == ([b"due"], 0)

        await wait_until(in_one_place)
