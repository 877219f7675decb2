"""Messages for later: held durably, in the log when due, listed, cancelled; always in exactly one place."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pubsub
from pubsub.config import PeerSettings
from pubsub.model import NewMessage
from pubsub.peer import schedule
from pubsub.protocol.messages import CopyState
from pubsub.storage.topic import Topic
from tests.docs.plain_client import PlainClient
from tests.integration.client.conftest import NOBODY, make_topic
from tests.integration.storage.stores import writer_held
from tests.proxy import FaultyProxy
from tests.waiting import wait_until

HOUR = 3600


class Clock:
    """The machine's clock as the schedule sees it; moved by hand."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def __call__(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us

    def forward(self, seconds: float) -> None:
        self.ahead_us += round(seconds * 1e6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(schedule, "now_us", clock)
    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.02)
    return clock


@pytest.fixture
async def client(peer: pubsub.Peer) -> AsyncIterator[pubsub.Client]:
    async with pubsub.Client(peer.address) as client:
        yield client


async def stored(peer: pubsub.Peer, topic: str = "a.b") -> list[bytes | None]:
    return [message.payload for message in await peer.query(topic, limit=10**6)]


def in_file(peer: pubsub.Peer, topic: str = "a.b") -> int:
    """How many messages are held, as the file has it."""
    topic_id = peer._node.store.topics[topic].id
    with sqlite3.connect(f"file:{peer._node.store.path}?mode=ro", uri=True) as connection:
        query = "SELECT count(*) FROM scheduled WHERE topic_id = ?"
        return int(connection.execute(query, (topic_id,)).fetchone()[0])


def held(peer: pubsub.Peer, topic: str = "a.b") -> int:
    """The same, once the peer believes so too; -1 while it has not heard of the last commit yet."""
    count = in_file(peer, topic)
    return count if peer._node.schedule.count(peer._node.store.topics[topic]) == count else -1


async def test_a_message_comes_when_it_is_due_and_not_before(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    async with client.subscribe("a.b") as messages:
        began = time.time()
        assert await client.publish("a.b", b"later", key="k", headers={"h": "1"}, delay_seconds=0.3) == 1
        assert await client.publish("a.b", b"now") == 0
        assert held(peer) == 1
        first, second = await anext(messages), await anext(messages)
    assert [first.payload, second.payload] == [b"now", b"later"]
    assert (second.offset, second.key, dict(second.headers)) == (1, "k", {"h": "1"})
    assert 0.3 <= second.published_at.timestamp() - began < 0.3 + 0.1 + 0.2  # and what publishing took
    await wait_until(lambda: held(peer) == 0)


async def test_what_is_due_is_moved_within_a_tenth_of_a_second(peer: pubsub.Peer) -> None:
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
    assert sorted(late)[len(late) // 2] < 0.1


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


# Listing and cancelling


async def test_held_messages_are_listed_in_order_page_by_page(
    peer: pubsub.Peer, client: pubsub.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = datetime(2030, 1, 1, tzinfo=UTC)
    await client.publish_many(
        "a.b", [NewMessage(b"same %d" % n, key="k", headers={"h": "1"}) for n in range(25)], deliver_at=due
    )
    await client.publish("a.b", b"first", deliver_at=due - timedelta(days=1))
    await client.publish("a.b", "ä", deliver_at=due + timedelta(microseconds=1))
    monkeypatch.setattr("pubsub.client.schedule_verbs.PAGE_MESSAGES", 4)
    found = await client.scheduled("a.b", limit=1000)
    assert [m.payload for m in found] == [b"first", *(b"same %d" % n for n in range(25)), "ä".encode()]
    assert found[1] == pubsub.ScheduledMessage(
        topic="a.b",
        schedule_id=1,
        deliver_at="2030-01-01T00:00:00.000000Z",
        key="k",
        headers={"h": "1"},
        payload=b"same 0",
    )
    assert [m.schedule_id for m in await peer.scheduled("a.b", limit=6)] == [26, 1, 2, 3, 4, 5]
    assert (await peer.topic("a.b")).scheduled == 27
    await make_topic(peer, "empty")
    assert await client.scheduled("empty") == []
    assert (await peer.topic("empty")).scheduled == 0


async def test_large_held_messages_are_listed_in_frames_of_bounded_size(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    for n in range(30):
        await client.publish("a.b", bytes([n]) * 1_000_000, delay_seconds=HOUR)
    assert [m.payload[0] for m in await client.scheduled("a.b")] == list(range(30))  # type: ignore[index]


async def test_a_cancelled_message_never_comes_and_is_an_error_from_then_on(
    peer: pubsub.Peer, client: pubsub.Client, clock: Clock
) -> None:
    first = await client.publish("a.b", b"cancelled", delay_seconds=10)
    second = await client.publish("a.b", b"kept", delay_seconds=10)
    await client.cancel_scheduled("a.b", first)
    assert held(peer) == 1
    with pytest.raises(pubsub.ScheduledNotFoundError, match=rf"schedule id {first}\b") as caught:
        await client.cancel_scheduled("a.b", first)
    assert caught.value.data["schedule_ids"] == [first]
    clock.forward(11)

    async def kept_is_there() -> bool:
        return await stored(peer) == [b"kept"]

    await wait_until(kept_is_there)
    with pytest.raises(pubsub.ScheduledNotFoundError):
        await client.cancel_scheduled("a.b", second)


async def test_of_several_those_that_are_held_are_cancelled_and_the_others_named(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    await make_topic(peer, "other")
    mine = list(await client.publish_many("a.b", [b"x"] * 2500, delay_seconds=HOUR))
    others = await client.publish("other", b"x", delay_seconds=HOUR)
    with pytest.raises(pubsub.ScheduledNotFoundError, match="the others were cancelled") as caught:
        await client.cancel_scheduled("a.b", *mine[:2400], others, 10**9)
    assert caught.value.data["schedule_ids"] == [others, 10**9]
    assert held(peer) == 100
    assert held(peer, "other") == 1


async def test_what_is_cancelled_while_it_is_being_moved_is_in_exactly_one_place(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    cancelled: set[bytes] = set()
    expected: set[bytes] = set()

    async def one(n: int) -> None:
        payload = b"%d" % n
        number = await client.publish("a.b", payload, delay_seconds=0.02 + n % 7 / 100)
        await asyncio.sleep(0.02 + n % 5 / 100)
        try:
            await client.cancel_scheduled("a.b", number)
            cancelled.add(payload)
        except pubsub.ScheduledNotFoundError:
            expected.add(payload)

    await asyncio.gather(*(one(n) for n in range(300)))
    await wait_until(lambda: held(peer) == 0)
    payloads = await stored(peer)
    assert sorted(payloads) == sorted(expected)  # type: ignore[type-var]
    assert cancelled
    assert expected


async def test_a_deleted_topic_takes_what_is_held_with_it(peer: pubsub.Peer, clock: Clock) -> None:
    await make_topic(peer, "kept")
    await peer.publish("a.b", b"x", delay_seconds=10)
    await peer.publish("kept", b"y", delay_seconds=10)
    await peer._node.drop_copy(peer._node.store.topics["a.b"].id)
    await make_topic(peer, "a.b")
    clock.forward(11)

    async def kept_is_there() -> bool:
        return await stored(peer, "kept") == [b"y"]

    await wait_until(kept_is_there)
    assert await stored(peer) == []
    assert held(peer) == 0


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
                await peer._node.create_copy(handed_to_bob(gone))
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


# Bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delay_seconds": 0}, "more than 0 seconds"),
        ({"delay_seconds": -1.5}, "more than 0 seconds"),
        ({"delay_seconds": float("nan")}, "number of seconds"),
        ({"delay_seconds": float("inf")}, "number of seconds"),
        ({"delay_seconds": "10s"}, "number of seconds"),
        ({"delay_seconds": True}, "number of seconds"),
        ({"delay_seconds": 1e9}, "at most 3660 days"),
        ({"deliver_at": datetime(2030, 1, 1)}, "has no zone"),
        ({"deliver_at": datetime(9999, 1, 1, tzinfo=UTC)}, "too far ahead"),
        ({"deliver_at": 1e9}, "aware datetime"),
        ({"deliver_at": "2030-01-01T00:00:00Z"}, "aware datetime"),
        ({"delay_seconds": 5, "deliver_at": datetime(2030, 1, 1, tzinfo=UTC)}, "not both"),
        ({"delay_seconds": 5, "expect_offset": 0}, "expect_offset is for now"),
    ],
)
async def test_a_bad_time_is_refused_in_one_line(
    peer: pubsub.Peer, client: pubsub.Client, options: dict[str, object], said: str
) -> None:
    for publisher in (client, peer):
        with pytest.raises(pubsub.InvalidRequestError, match=said) as caught:
            await publisher.publish("a.b", b"x", **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        with pytest.raises(pubsub.InvalidRequestError, match=said):
            await publisher.publish_many("a.b", [b"x"], atomic=True, **options)  # type: ignore[arg-type]
    assert held(peer) == 0


async def test_a_message_for_later_takes_no_id(peer: pubsub.Peer, client: pubsub.Client) -> None:
    message = NewMessage(b"x", message_id="x")
    for publisher in (client, peer):
        with pytest.raises(pubsub.InvalidRequestError, match="takes no message_id"):
            await publisher.publish("a.b", message, delay_seconds=5)
        for atomic in (False, True):
            with pytest.raises(pubsub.InvalidRequestError, match="takes no message_id"):
                await publisher.publish_many("a.b", [message], atomic=atomic, delay_seconds=5)


async def test_bad_lists_and_cancellations_are_refused(peer: pubsub.Peer, client: pubsub.Client) -> None:
    for limit in (0, -1, True, "5"):
        with pytest.raises(pubsub.InvalidRequestError, match="limit"):
            await client.scheduled("a.b", limit=limit)  # type: ignore[arg-type]
    for number in (0, -1, 2**63, "5", True):
        with pytest.raises(pubsub.InvalidRequestError, match="schedule id"):
            await client.cancel_scheduled("a.b", number)  # type: ignore[arg-type]
    with pytest.raises(pubsub.InvalidRequestError, match="one at least"):
        await client.cancel_scheduled("a.b")
    with pytest.raises(pubsub.InvalidNameError):
        await client.scheduled("no topic!")
    async with pubsub.Client(peer.address, relay=True) as relaying:
        with pytest.raises(pubsub.InvalidRequestError, match="relay"):
            await relaying.scheduled("a.b")
        with pytest.raises(pubsub.InvalidRequestError, match="relay"):
            await relaying.cancel_scheduled("a.b", 1)


async def test_the_owner_refuses_bad_lists_and_cancellations_too(peer: pubsub.Peer) -> None:
    host, port = peer.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    plain = PlainClient(reader, writer)
    await plain.hello()
    for listing in ((-1, 0, 10), (0, -1, 10), (0, 0, 0), (0, 0, -1), (2**63, 0, 1)):
        assert (await plain.ask(74, "a.b", *listing))[2] == "invalid_request", listing
    for numbers in ([], [0], [-1], [2**63], list(range(1, 1002))):
        assert (await plain.ask(76, "a.b", numbers))[2] == "invalid_request", numbers
    assert (await plain.ask(76, "a.b", [1]))[2] == "scheduled_not_found"
    assert (await plain.ask(74, "no.such"))[2] == "topic_not_found"
    writer.close()
    await writer.wait_closed()
