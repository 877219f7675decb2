"""Messages for later: held durably, in the log when due, in order of time; always in exactly one place."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

import pubsub
from tests.integration.client.conftest import NOBODY, make_topic
from tests.integration.client.scheduling import HOUR, Clock, held, stored
from tests.proxy import FaultyProxy
from tests.stopwatch import Stopwatch
from tests.waiting import wait_until


async def test_a_message_comes_when_it_is_due_and_not_before(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    async with client.subscribe("a.b") as messages:
        began, watch = time.time(), Stopwatch()
        assert await client.publish("a.b", b"later", key="k", headers={"h": "1"}, delay_seconds=0.3) == 1
        assert await client.publish("a.b", b"now") == 0
        assert held(peer) == 1
        first, second = await anext(messages), await anext(messages)
    assert [first.payload, second.payload] == [b"now", b"later"]
    assert (second.offset, second.key, dict(second.headers)) == (1, "k", {"h": "1"})
    took = second.published_at.timestamp() - began
    assert 0.3 <= took < 0.3 + 0.1 + 0.2 + watch.waited_seconds  # and what publishing took
    await wait_until(lambda: held(peer) == 0)


async def test_what_is_due_is_moved_within_a_tenth_of_a_second(peer: pubsub.Peer) -> None:
    watch = Stopwatch()
    due = [datetime.now(UTC) + timedelta(seconds=0.2 + 0.01 * n) for n in range(30)]
    for instant in due:
        await peer.publish("a.b", instant.isoformat(), deliver_at=instant)

    async def all_there() -> bool:
        return len(await stored(peer)) == 30

    await wait_until(all_there)
    late = [
        (message.published_at - datetime.fromisoformat(message.text)).total_seconds()
        for message in await peer.query("a.b")
    ]
    assert min(late) >= 0
    assert sorted(late)[len(late) // 2] < 0.1 + watch.waited_seconds


async def test_messages_come_in_order_of_time_then_of_publishing(
    peer: pubsub.Peer, client: pubsub.Client, clock: Clock
) -> None:
    delays = [30, 10, 20, 10, 30, 20, 10]
    for n, delay in enumerate(delays):
        await client.publish("a.b", b"%d.%d" % (delay, n), delay_seconds=float(delay))
    same = datetime.now(UTC) + timedelta(seconds=15)
    await client.publish_many("a.b", [b"15.%d" % n for n in range(3000)], deliver_at=same)
    assert await stored(peer) == []
    clock.forward(60)

    async def all_there() -> bool:
        return len(await stored(peer)) == 3007

    await wait_until(all_there)
    assert await stored(peer) == [
        *(b"10.1", b"10.3", b"10.6"),
        *(b"15.%d" % n for n in range(3000)),
        *(b"20.2", b"20.5", b"30.0", b"30.4"),
    ]


async def test_a_time_that_has_passed_means_now(peer: pubsub.Peer, client: pubsub.Client) -> None:
    for publisher in (client, peer):
        await publisher.publish("a.b", b"x", deliver_at=datetime.now(UTC) - timedelta(days=400))
    await publisher.publish("a.b", b"x", deliver_at=datetime(1, 1, 1, tzinfo=UTC))

    async def all_there() -> bool:
        return len(await stored(peer)) == 3

    await wait_until(all_there)
    assert held(peer) == 0


async def test_what_is_held_survives_a_restart_and_what_became_due_meanwhile_comes_at_once(
    tmp_path: Path, clock: Clock
) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        await peer.publish("a.b", b"10", delay_seconds=10)
        await peer.publish("a.b", b"5", delay_seconds=5)
        await peer.publish("a.b", b"hour", delay_seconds=HOUR)
    clock.forward(60)
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as again:

        async def due_there() -> bool:
            return await stored(again) == [b"5", b"10"]

        await wait_until(due_there)
        assert held(again) == 1
        assert [m.payload for m in await again.scheduled("a.b")] == [b"hour"]
        assert await again.publish("a.b", b"new", delay_seconds=HOUR) == 4


async def test_a_lost_acknowledgement_does_not_hold_a_message_twice(peer: pubsub.Peer) -> None:
    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        peer._node.address = proxy.address
        assert await client.publish("a.b", b"before") == 0
        proxy.swallow_answers = True
        publishing = asyncio.create_task(client.publish_many("a.b", [b"1", b"2", b"3"], delay_seconds=HOUR))
        await wait_until(lambda: held(peer) == 3)
        proxy.swallow_answers = False
        proxy.cut()
        assert await publishing == [1, 2, 3]
        assert await client.publish("a.b", b"after") == 1
    assert held(peer) == 3
    assert await stored(peer) == [b"before", b"after"]


async def test_a_lost_acknowledgement_of_what_was_delivered_meanwhile_does_not_double_it(
    peer: pubsub.Peer,
) -> None:
    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        peer._node.address = proxy.address
        assert await client.publish("a.b", b"before") == 0
        proxy.swallow_answers = True
        publishing = asyncio.create_task(client.publish("a.b", b"once", delay_seconds=0.01))

        async def delivered() -> bool:
            return await stored(peer) == [b"before", b"once"]

        await wait_until(delivered)
        proxy.swallow_answers = False
        proxy.cut()
        assert await publishing == 1
    assert held(peer) == 0
    assert await stored(peer) == [b"before", b"once"]


async def test_connections_cut_at_random_and_restarts_lose_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(5)
    data = tmp_path / "a"
    peer = pubsub.Peer("alice", data=data, index=NOBODY)
    await peer.open()
    await make_topic(peer, "a.b")
    async with FaultyProxy(*peer.address.split(":")) as proxy:
        peer._node.address = proxy.address
        async with pubsub.Client([proxy.address, proxy.address], timeout_seconds=60) as client:

            async def publisher(number: int) -> None:
                for n in range(40):
                    delay = chance.choice([None, 0.001, 0.05, 0.2])
                    await client.publish("a.b", b"%d.%d" % (number, n), delay_seconds=delay)

            publishing = asyncio.gather(*(publisher(n) for n in range(8)))
            for _ in range(6):
                await asyncio.sleep(chance.uniform(0.01, 0.1))
                proxy.swallow_answers = chance.random() < 0.7
                await asyncio.sleep(0.005)
                if chance.random() < 0.5:
                    await peer.close()
                    peer = pubsub.Peer("alice", data=data, index=NOBODY)
                    await peer.open()
                    host, port = peer.address.split(":")
                    proxy.target = (host, int(port))
                    peer._node.address = proxy.address
                proxy.cut()
                proxy.swallow_answers = False
            await publishing
    await wait_until(lambda: held(peer) == 0)
    payloads = await stored(peer)
    assert sorted(payloads) == sorted(b"%d.%d" % (p, n) for p in range(8) for n in range(40))  # type: ignore[type-var]
    await peer.close()


async def test_many_topics_due_at_one_moment_share_commits(tmp_path: Path, clock: Clock) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        for n in range(300):
            await make_topic(peer, f"t{n}")
        due = datetime.now(UTC) + timedelta(minutes=1)
        await asyncio.gather(*(peer.publish(f"t{n}", b"%d" % n, deliver_at=due) for n in range(300)))
        commits = 0
        committed = peer._node.store._committed

        def counted(outcome):  # type: ignore[no-untyped-def]
            nonlocal commits
            commits += bool(outcome.appended)
            committed(outcome)

        peer._node.store._writer._committed = counted
        clock.forward(61)
        await wait_until(
            lambda: all(not peer._node.schedule.count(t) for t in peer._node.store.topics.values())
        )
        assert commits < 30
        for n in (0, 299):
            assert await stored(peer, f"t{n}") == [b"%d" % n]


async def test_a_long_backlog_of_one_topic_does_not_hold_up_another(tmp_path: Path, clock: Clock) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        for name in ("long", "short"):
            await make_topic(peer, name)
        await peer.publish_many("long", [b"x"] * 50_000, delay_seconds=10)
        await peer.publish("short", b"y", delay_seconds=11)
        clock.forward(12)

        async def short_is_there() -> bool:
            return await stored(peer, "short") == [b"y"]

        await wait_until(short_is_there)
        # What memory says: the file is ahead of it while a commit is being answered.
        schedule, long = peer._node.schedule, peer._node.store.topics["long"]
        assert schedule.count(long) > 10_000
        await wait_until(lambda: schedule.count(long) == 0, 30)
        assert peer._node.store.topics["long"].next_offset == 50_000


async def test_the_clock_may_be_set_forward_and_back(peer: pubsub.Peer, clock: Clock) -> None:
    await peer.publish("a.b", b"far", delay_seconds=5 * HOUR)
    await peer.publish("a.b", b"near", delay_seconds=HOUR)
    clock.forward(-24 * HOUR)
    await peer.publish("a.b", b"now")
    clock.forward(24 * HOUR + HOUR + 1)

    async def near_is_there() -> bool:
        return await stored(peer) == [b"now", b"near"]

    await wait_until(near_is_there)
    assert held(peer) == 1


async def test_a_delay_is_counted_by_the_owners_clock(
    peer: pubsub.Peer, client: pubsub.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = SimpleNamespace(time_ns=lambda: time.time_ns() - 1000 * 10**9)
    monkeypatch.setattr("pubsub.client.outgoing.time", behind)
    await client.publish("a.b", b"x", delay_seconds=500)
    (found,) = await client.scheduled("a.b")
    left = datetime.fromisoformat(found.deliver_at) - datetime.now(UTC)
    assert 490 < left.total_seconds() <= 500
