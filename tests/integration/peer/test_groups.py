"""Groups as a peer serves them, seen through raw connections."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

import pubsub
from pubsub.config import KIB, Limits, StorageSettings
from pubsub.errors import (
    GroupNotFoundError,
    InvalidNameError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    PubsubError,
    ReadOnlyError,
    TopicNotFoundError,
)
from pubsub.model import GroupInfo, Message, parse_address
from pubsub.net.link import Link, connect
from pubsub.peer.group_supply import offsets_of
from pubsub.protocol import messages as m
from pubsub.protocol.handshake import hello
from tests.integration.storage.stores import copy_of
from tests.waiting import wait_until

SECONDS = 10.0
TOPIC = "jobs"
AT_ONCE = {"backoff_seconds": 0}

OpenPeer = Callable[..., Awaitable[pubsub.Peer]]


class Member:
    """A member of a group on a connection of its own."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.number = link.next_subscription()
        self.got: list[tuple[int, int]] = []
        """(offset, attempt) of all that was delivered."""
        self.payloads: dict[int, bytes | None] = {}
        self.ended: m.Ended | None = None
        self.joined: m.Joined | None = None
        link.streams[self.number] = self._on_frame

    def _on_frame(self, frame: m.Deliver | m.Ended) -> None:
        if isinstance(frame, m.Ended):
            self.ended = frame
            return
        attempts = frame.batch.attempts
        assert attempts is not None
        offsets = list(offsets_of(frame.batch))
        self.got += zip(offsets, attempts, strict=True)
        self.payloads |= zip(offsets, frame.batch.payloads, strict=True)

    async def join(self, max_in_flight: int = 100, group: str = "g", **fields: Any) -> Member:
        frame = m.JoinGroup(
            id=self.link.next_id(),
            subscription=self.number,
            topic=fields.pop("topic", TOPIC),
            group=group,
            max_in_flight=max_in_flight,
            window_bytes=fields.pop("window_bytes", 1 << 30),
            **fields,
        )
        reply = await self.link.request(frame, SECONDS)
        assert isinstance(reply, m.Joined)
        self.joined = reply
        return self

    async def settle(self, how: str, *deliveries: tuple[int, int], delay_us: int = -1) -> list[int]:
        """Settle deliveries; returns the offsets that are late."""
        frame = m.Settle(
            id=self.link.next_id(),
            subscription=self.number,
            how=how,
            offsets=[offset for offset, _ in deliveries],
            attempts=[attempt for _, attempt in deliveries],
            delay_us=delay_us,
        )
        reply = await self.link.request(frame, SECONDS)
        assert isinstance(reply, m.Settled)
        return reply.late

    async def leave(self) -> None:
        await self.link.request(m.Unsubscribe(self.link.next_id(), self.number), SECONDS)

    async def has(self, *deliveries: tuple[int, int]) -> None:
        """Wait until exactly these were delivered, in whatever order."""
        await wait_until(lambda: len(self.got) >= len(deliveries), description=f"{deliveries}")
        assert sorted(self.got) == sorted(deliveries)


OpenMember = Callable[..., Awaitable[Member]]


@pytest_asyncio.fixture
async def open_peer(tmp_path: Path) -> AsyncIterator[OpenPeer]:
    """Opens the peer alice, without an index, with the topics given."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_it(*topics: str, data: Path | None = None, **settings: Any) -> pubsub.Peer:
            peer = pubsub.Peer("alice", data=data or tmp_path / "alice", index="127.0.0.1:1", **settings)
            await stack.enter_async_context(peer)
            for topic_id, name in enumerate(topics or (TOPIC,), 1):
                await peer._node.create_copy(copy_of(topic_id, name))
            return peer

        yield open_it


@pytest_asyncio.fixture
async def open_member() -> AsyncIterator[OpenMember]:
    """Connects members to a peer, each on a connection of its own; all are gone at the end."""
    links: list[Link] = []

    async def open_it(peer: pubsub.Peer) -> Member:
        link = await connect(parse_address(peer.address), hello("client", "test"), Limits())
        links.append(link)
        return Member(link)

    yield open_it
    for link in links:
        link.abort()


async def publish(peer: pubsub.Peer, how_many: int, first: int = 0, keys: list[str] | None = None) -> None:
    await peer.publish_many(
        TOPIC,
        [
            pubsub.NewMessage(b"%d" % (first + n), key=keys[n] if keys is not None else None)
            for n in range(how_many)
        ],
    )


async def info(peer: pubsub.Peer, group: str = "g", topic: str = TOPIC) -> GroupInfo:
    return await peer.group(topic, group)


async def figures(peer: pubsub.Peer, **settings: str) -> tuple[int, int, int, int, int]:
    """ready, in flight, delayed, dead, lag."""
    now = await info(peer, **settings)
    return now.ready, now.in_flight, now.delayed, now.dead, now.lag


def rows(peer: pubsub.Peer, query: str) -> list[tuple[Any, ...]]:
    """What the file says, as it is on disk."""
    assert peer._store is not None
    with contextlib.closing(sqlite3.connect(f"file:{peer._store.path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


ENTRIES = "SELECT offset, state, attempts, member FROM group_messages ORDER BY offset"


def killed(peer: pubsub.Peer, tmp_path: Path, number: int = 1) -> Path:
    """What a kill -9 of the peer at this moment would leave."""
    assert peer._store is not None
    left = tmp_path / f"killed-{number}"
    left.mkdir()
    for name in ("peer.db", "peer.db-wal"):
        shutil.copy(peer._store.path.with_name(name), left / name)
    return left


# Giving out


async def test_each_message_goes_to_one_member_and_they_share_evenly(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    members = [await (await open_member(peer)).join(max_in_flight=1000) for _ in range(4)]
    await publish(peer, 100)
    await wait_until(lambda: sum(len(member.got) for member in members) == 100)
    assert sorted(delivery for member in members for delivery in member.got) == [(n, 1) for n in range(100)]
    assert {len(member.got) for member in members} == {25}
    assert members[0].payloads == {offset: b"%d" % offset for offset, _ in members[0].got}
    assert [member["in_flight"] for member in (await info(peer)).members] == [25] * 4
    for member in members:
        assert await member.settle("ack", *member.got) == []
    assert await figures(peer) == (0, 0, 0, 0, 0)
    assert rows(peer, ENTRIES) == []
    assert rows(peer, "SELECT name, cursor FROM groups") == [("g", 100)]


async def test_a_delivered_message_is_in_the_file_and_so_is_an_answered_settle(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(name="worker")
    await publish(peer, 3)
    await member.has((0, 1), (1, 1), (2, 1))
    found = rows(peer, ENTRIES)
    assert [row[:3] for row in found] == [(n, "in_flight", 1) for n in range(3)]
    assert all(row[3].startswith("worker 127.0.0.1:") for row in found)
    await member.settle("ack", (1, 1))
    await member.settle("nack", (2, 1), delay_us=60_000_000)
    assert [row[:3] for row in rows(peer, ENTRIES)] == [(0, "in_flight", 1), (2, "delayed", 1)]


@pytest.mark.parametrize("behind", [True, False], ids=["from-disk", "live"])
async def test_a_member_never_has_more_than_it_asked_for(
    open_peer: OpenPeer, open_member: OpenMember, behind: bool
):
    peer = await open_peer()
    member = await open_member(peer)
    if behind:
        await publish(peer, 50)
        await member.join(max_in_flight=7)
    else:
        await member.join(max_in_flight=7)
        await publish(peer, 50)
    done = 0
    while done < 50:
        await wait_until(lambda: len(member.got) == min(50, done + 7))  # noqa: B023
        assert (await info(peer)).in_flight == min(50, done + 7) - done
        await member.settle("ack", member.got[done])
        done += 1
    assert [offset for offset, _ in member.got] == list(range(50))


async def test_a_window_of_bytes_bounds_what_a_member_has(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await (await open_member(peer)).join(window_bytes=25 * KIB)
    await peer.publish_many(TOPIC, [bytes(10 * KIB)] * 4 + [bytes(100 * KIB)] + [bytes(10 * KIB)])
    await member.has((0, 1), (1, 1))
    await member.settle("ack", (0, 1), (1, 1))
    await member.has((0, 1), (1, 1), (2, 1), (3, 1))
    await member.settle("ack", (2, 1))
    assert (await info(peer)).in_flight == 1  # the large one comes alone
    await member.settle("ack", (3, 1))
    await wait_until(lambda: (4, 1) in member.got)
    assert (await info(peer)).in_flight == 1
    await member.settle("ack", (4, 1))
    await wait_until(lambda: (5, 1) in member.got)


async def test_groups_do_not_disturb_each_other_nor_subscribers(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    await publish(peer, 3)
    first = await (await open_member(peer)).join(group="first")
    late = await (await open_member(peer)).join(group="late", start=m.LATEST)
    await publish(peer, 1, 3)
    await first.has(*((n, 1) for n in range(4)))
    await late.has((3, 1))
    assert len(await peer.query(TOPIC)) == 4
    assert [group.group for group in await peer.groups(TOPIC)] == ["first", "late"]


async def test_a_later_member_is_told_the_options_of_the_group(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    await (await open_member(peer)).join(options={"max_attempts": 7, "ordered": True})
    other = await (await open_member(peer)).join(options={"max_attempts": 2})
    assert other.joined is not None
    assert other.joined.options == {
        "lease_seconds": 30.0,
        "max_attempts": 7,
        "backoff_seconds": 1.0,
        "ordered": True,
    }


async def test_two_messages_of_a_key_are_never_in_flight_in_an_ordered_group(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    members = [await (await open_member(peer)).join(options={"ordered": True}) for _ in range(2)]
    keys = ["k", "k", "l", "k", "l", "l"]
    await publish(peer, 6, keys=keys)
    order: list[int] = []
    seen = [0, 0]
    while len(order) < 6:
        await wait_until(lambda: [len(member.got) for member in members] != seen)  # noqa: B023
        held = [(member, delivery) for n, member in enumerate(members) for delivery in member.got[seen[n] :]]
        seen = [len(member.got) for member in members]
        assert len({keys[offset] for _, (offset, _) in held}) == len(held)
        for member, delivery in held:
            order.append(delivery[0])
            await member.settle("ack", delivery)
    assert [offset for offset in order if keys[offset] == "k"] == [0, 1, 3]
    assert [offset for offset in order if keys[offset] == "l"] == [2, 4, 5]


async def test_a_member_that_does_not_read_keeps_nothing_from_the_others(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer(limits=Limits(write_buffer_bytes=64 * KIB))
    stuck = await (await open_member(peer)).join(max_in_flight=100)
    stuck.link.hold_reading("test")
    await peer.publish_many(TOPIC, [bytes(256 * KIB)] * 40)
    await wait_until(lambda: any(not c.writable for c in peer._server.connections))
    eager = await (await open_member(peer)).join(max_in_flight=100)
    await peer.publish_many(TOPIC, [b"x"] * 10)
    await wait_until(lambda: {offset for offset, _ in eager.got} >= set(range(40, 50)))
    stuck.link.release_reading("test")
    await wait_until(lambda: all(c.writable for c in peer._server.connections))
    await peer.publish_many(TOPIC, [b"x"] * 20)
    await wait_until(lambda: any(offset >= 50 for offset, _ in stuck.got))


# Failing


async def test_a_nacked_message_comes_again_after_its_delay_and_counts_its_attempts(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 1)
    await member.has((0, 1))
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert await member.settle("nack", (0, 1), delay_us=200_000) == []
    assert await figures(peer) == (0, 0, 1, 0, 1)
    await member.has((0, 1), (0, 2))
    assert 0.19 <= loop.time() - before < 1.5
    await member.settle("nack", (0, 2), delay_us=0)
    await member.has((0, 1), (0, 2), (0, 3))


async def test_a_lease_that_runs_out_gives_the_message_to_another_and_the_late_ack_changes_nothing(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    zombie = await (await open_member(peer)).join(1, options=AT_ONCE | {"lease_seconds": 0.3})
    await publish(peer, 1)
    await zombie.has((0, 1))
    other = await (await open_member(peer)).join(2)
    await wait_until(lambda: other.got or len(zombie.got) > 1)
    holder, attempt = (other, other.got[-1][1]) if other.got else (zombie, zombie.got[-1][1])
    assert await zombie.settle("ack", (0, 1)) == [0]
    assert await zombie.settle("nack", (0, 1)) == [0]
    assert await zombie.settle("extend", (0, 1)) == [0]
    assert (await info(peer)).lag == 1
    assert await holder.settle("ack", (0, attempt)) == []
    assert await figures(peer) == (0, 0, 0, 0, 0)
    assert await holder.settle("ack", (0, attempt)) == [0]


async def test_a_lease_that_is_extended_does_not_run_out(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await (await open_member(peer)).join(options=AT_ONCE | {"lease_seconds": 0.5})
    await publish(peer, 2)
    await member.has((0, 1), (1, 1))
    while len(member.got) < 3:  # the other one does
        assert await member.settle("extend", (0, 1)) == []
        await asyncio.sleep(0.05)
    assert member.got[2] == (1, 2)
    assert await member.settle("ack", (0, 1)) == []


async def test_what_a_lost_connection_had_goes_to_others_at_once(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    lost = await (await open_member(peer)).join()
    await publish(peer, 5)
    await lost.has(*((n, 1) for n in range(5)))
    other = await (await open_member(peer)).join()
    loop = asyncio.get_running_loop()
    before = loop.time()
    lost.link.abort()
    await other.has(*((n, 2) for n in range(5)))
    assert loop.time() - before < 2
    assert len((await info(peer)).members) == 1


async def test_who_leaves_gives_back_and_what_was_released_before_is_not_counted(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    leaving = await (await open_member(peer)).join()
    await publish(peer, 3)
    await leaving.has((0, 1), (1, 1), (2, 1))
    assert await leaving.settle("release", (1, 1), (2, 1)) == []
    await publish(peer, 1, 3)
    other = await (await open_member(peer)).join()
    await other.has((1, 1), (2, 1), (3, 1))
    await leaving.leave()
    await other.has((1, 1), (2, 1), (3, 1), (0, 2))
    assert len(leaving.got) == 3  # nothing more after it released
    assert await leaving.settle("ack", (0, 1)) == [0]


# The clock


@pytest.mark.parametrize("hours", [1, -1])
async def test_setting_the_clock_neither_ends_nor_prolongs_leases_and_delays(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch, hours: int
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(1, options=AT_ONCE | {"lease_seconds": 600})
    held = await (await open_member(peer)).join(1)
    await publish(peer, 2)
    await wait_until(lambda: member.got and held.got)
    clock = SimpleNamespace(
        time_ns=lambda: time.time_ns() + hours * 3600 * 10**9, monotonic_ns=time.monotonic_ns
    )
    (first,) = member.got
    await member.settle("nack", first, delay_us=200_000)
    monkeypatch.setattr("pubsub.peer.lease_clock.time", clock)
    await wait_until(lambda: len(member.got) == 2)
    assert member.got[1] == (first[0], 2)
    assert await held.settle("ack", *held.got) == []


async def test_an_owner_that_stood_still_first_reads_what_members_had_to_say(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(options=AT_ONCE | {"lease_seconds": 0.3})
    await publish(peer, 2)
    await member.has((0, 1), (1, 1))
    (work,) = next(iter(peer._node.groups._by_topic.values())).values()
    extending = asyncio.create_task(member.settle("extend", (0, 1)))
    await asyncio.sleep(0)  # it is sent
    time.sleep(0.5)  # noqa: ASYNC251 - all of this process stands still
    work._on_timer()  # timers before sockets, as uvloop does it
    assert await extending == []
    assert await member.settle("ack", (0, 1)) == []
    await member.has((0, 1), (1, 1), (1, 2))  # of which nothing was heard


# Dead letters


async def test_a_message_that_failed_too_often_becomes_a_dead_letter_that_says_why(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(options=AT_ONCE | {"max_attempts": 2})
    await peer.publish(TOPIC, b"poison", key="k", headers={"unit": "C"})
    (original,) = await peer.query(TOPIC)
    await member.has((0, 1))
    await member.settle("nack", (0, 1))
    await member.has((0, 1), (0, 2))
    await member.settle("nack", (0, 2))
    letter = await dead_letter(peer)
    assert (letter.payload, letter.key) == (b"poison", "k")
    assert dict(letter.headers) == {
        "unit": "C",
        "pubsub-dead-topic": TOPIC,
        "pubsub-dead-offset": "0",
        "pubsub-dead-group": "g",
        "pubsub-dead-reason": "nack",
        "pubsub-dead-attempts": "2",
        "pubsub-dead-published-at": original.published_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    assert await figures(peer) == (0, 0, 0, 1, 0)
    assert rows(peer, ENTRIES) == []
    assert rows(peer, "SELECT source_topic_id, source_offset, group_name FROM dead_letters") == [(1, 0, "g")]
    assert peer._node.store.topics[f"{TOPIC}.dead"].owner == "alice"


async def dead_letter(peer: pubsub.Peer, topic: str = TOPIC) -> Message:
    await wait_until(lambda: f"{topic}.dead" in peer._node.store.topics)
    (letter,) = await wait_until(lambda: peer.query(f"{topic}.dead"))
    return letter


async def test_lost_members_and_leases_kill_as_well(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    await publish(peer, 1)
    stuck = await (await open_member(peer)).join(
        group="stuck", options={"max_attempts": 1, "lease_seconds": 0.1}
    )
    await stuck.has((0, 1))
    assert (await dead_letter(peer)).headers["pubsub-dead-reason"] == "lease expired"
    lost = await (await open_member(peer)).join(group="lost", options={"max_attempts": 1})
    await lost.has((0, 1))
    lost.link.abort()
    await wait_until(lambda: has_dead(peer, 2))
    letter = (await peer.query(f"{TOPIC}.dead"))[1]
    assert letter.headers["pubsub-dead-reason"] == "member lost"
    assert letter.headers["pubsub-dead-group"] == "lost"
    assert await figures(peer, group="stuck") == await figures(peer, group="lost") == (0, 0, 0, 1, 0)


async def figures_are(peer: pubsub.Peer, wanted: tuple[int, int, int, int, int]) -> bool:
    return await figures(peer) == wanted


async def test_a_group_of_dead_letters_never_gives_up(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer(TOPIC, f"{TOPIC}.dead")
    member = await (await open_member(peer)).join(
        topic=f"{TOPIC}.dead", options=AT_ONCE | {"max_attempts": 1}
    )
    await peer.publish(f"{TOPIC}.dead", b"x")
    for attempt in range(1, 4):
        await wait_until(lambda: (0, attempt) in member.got)  # noqa: B023
        await member.settle("nack", (0, attempt))
    assert set(peer._node.store.topics) == {TOPIC, f"{TOPIC}.dead"}


async def test_redriven_messages_are_ready_in_their_group_again_and_nowhere_else(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    await kill(peer, await open_member(peer), 3)
    note = await peer.redrive_group(TOPIC, "g")
    assert note == "3 dead letters of group g are ready again"
    assert await peer.query(f"{TOPIC}.dead") == []
    assert peer._node.store.topics[f"{TOPIC}.dead"].messages == 0
    assert await figures(peer) == (3, 0, 0, 0, 3)
    assert rows(peer, "SELECT messages, bytes FROM topics WHERE name = 'jobs.dead'") == [(0, 0)]
    assert rows(peer, "SELECT * FROM dead_letters") == []
    member = await (await open_member(peer)).join()
    await member.has((0, 1), (1, 1), (2, 1))
    assert len(await peer.query(TOPIC)) == 3
    assert await peer.redrive_group(TOPIC, "g") == "0 dead letters of group g are ready again"


async def kill(peer: pubsub.Peer, member: Member, how_many: int) -> None:
    """Publish messages and have all of them become dead letters."""
    await member.join(options=AT_ONCE | {"max_attempts": 1})
    await publish(peer, how_many)
    await wait_until(lambda: len(member.got) == how_many)
    await member.settle("nack", *member.got)
    await wait_until(lambda: f"{TOPIC}.dead" in peer._node.store.topics)
    await wait_until(lambda: has_dead(peer, how_many))
    await member.leave()


async def has_dead(peer: pubsub.Peer, how_many: int) -> bool:
    return len(await peer.query(f"{TOPIC}.dead")) == how_many


async def test_a_dead_letter_whose_original_is_not_kept_is_published_anew(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    await kill(peer, await open_member(peer), 3)
    await retain(peer, 2)
    note = await peer.redrive_group(TOPIC, "g")
    assert note == (
        "1 dead letters of group g are ready again; 2 that the topic did not keep any more were published to it "
        "anew, for every reader"
    )
    member = await (await open_member(peer)).join()
    await member.has((2, 1), (3, 1), (4, 1))
    anew = (await peer.query(TOPIC))[1:]
    assert [message.headers["pubsub-redriven-from"] for message in anew] == ["jobs/0", "jobs/1"]
    assert [message.payload for message in anew] == [b"0", b"1"]
    assert await peer.query(f"{TOPIC}.dead") == []
    assert await figures(peer) == (0, 3, 0, 0, 3)


async def retain(peer: pubsub.Peer, keep_from: int, topic_name: str = TOPIC) -> None:
    """Have retention take the messages before an offset."""
    topic = peer._node.store.topics[topic_name]
    assert peer._store is not None
    await peer._store.step(
        lambda cursor: cursor.execute(
            "DELETE FROM messages WHERE topic_id = ? AND offset < ?", (topic.id, keep_from)
        ),
        0,
    )
    await peer._store.step(
        lambda cursor: cursor.execute(
            "UPDATE topics SET messages = messages - ? + first_offset, first_offset = ? WHERE id = ?",
            (keep_from, keep_from, topic.id),
        ),
        0,
    )
    topic.messages -= keep_from - topic.first_offset
    topic.first_offset = keep_from
    await peer._node.groups.on_first_offset(topic)


async def test_dead_letters_that_retention_took_are_counted_no_more(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    await kill(peer, await open_member(peer), 3)
    await retain(peer, 2, f"{TOPIC}.dead")
    assert (await info(peer)).dead == 1
    await peer._node.drop_copy(peer._node.store.topics[f"{TOPIC}.dead"].id)
    assert (await info(peer)).dead == 0


# Restarts


async def test_after_a_kill_attempts_and_delays_are_as_they_were_and_an_old_ack_is_late(
    open_peer: OpenPeer, open_member: OpenMember, tmp_path: Path
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(3, options=AT_ONCE)
    await publish(peer, 5)
    await member.has((0, 1), (1, 1), (2, 1))
    await member.settle("ack", (0, 1))
    await member.settle("nack", (1, 1), delay_us=3_600_000_000)
    await wait_until(lambda: len(member.got) == 5)
    left = killed(peer, tmp_path)
    await peer.close()
    again = await open_peer(data=left)
    assert await figures(again) == (3, 0, 1, 0, 4)
    await wait_until(
        lambda: (
            [row[:3] for row in rows(again, ENTRIES)]
            == [
                (1, "delayed", 1),
                (2, "ready", 1),
                (3, "ready", 1),
                (4, "ready", 1),
            ]
        )
    )
    member = await (await open_member(again)).join()
    await member.has((2, 2), (3, 2), (4, 2))
    assert await member.settle("ack", (2, 1), (0, 1)) == [2, 0]
    assert await member.settle("ack", (2, 2), (3, 2), (4, 2)) == []
    assert await figures(again) == (0, 0, 1, 0, 1)


async def test_a_delay_that_ended_while_the_peer_was_away_has_ended(
    open_peer: OpenPeer, open_member: OpenMember, tmp_path: Path
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 1)
    await member.has((0, 1))
    await member.settle("nack", (0, 1), delay_us=100_000)
    left = killed(peer, tmp_path)
    await peer.close()
    await asyncio.sleep(0.1)
    again = await open_peer(data=left)
    await wait_until(lambda: figures_are(again, (1, 0, 0, 0, 1)))
    await (await (await open_member(again)).join()).has((0, 2))


async def test_what_was_dying_when_the_peer_was_killed_becomes_a_dead_letter_afterwards(
    open_peer: OpenPeer, open_member: OpenMember, tmp_path: Path
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(options=AT_ONCE | {"max_attempts": 1})
    await publish(peer, 1)
    await member.has((0, 1))

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    peer._node.groups._by_topic[1]["g"]._bury = never
    await member.settle("nack", (0, 1))
    assert await figures(peer) == (0, 0, 0, 1, 0)
    left = killed(peer, tmp_path)
    again = await open_peer(data=left)
    assert (await dead_letter(again)).headers["pubsub-dead-reason"] == "nack"
    assert await figures(again) == (0, 0, 0, 1, 0)


async def test_an_orderly_restart_keeps_groups_too(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await (await open_member(peer)).join(options={"ordered": True})
    await publish(peer, 3, keys=["k", "k", "l"])
    await member.has((0, 1), (2, 1))
    await peer.close()
    again = await open_peer()
    found = await info(again)
    assert found.options["ordered"]
    assert found.lag == 3
    member = await (await open_member(again)).join()
    await member.has((0, 2), (2, 2))
    await member.settle("ack", (0, 2))
    await member.has((0, 2), (2, 2), (1, 1))


# A disk that cannot be written to


async def test_what_could_not_be_stored_is_told_and_may_be_tried_again(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
):
    peer = await open_peer(storage_settings=StorageSettings(probe_seconds=0.05))
    store = peer._store
    assert store is not None
    member = await (await open_member(peer)).join(2)
    await publish(peer, 4)
    await member.has((0, 1), (1, 1))
    before = rows(peer, ENTRIES)
    full = True
    change = store.change

    def refuse(statements: Any, done: Any) -> None:
        if full:
            asyncio.get_running_loop().call_soon(done, ReadOnlyError("the disk is full"))
        else:
            change(statements, done)

    monkeypatch.setattr(store, "change", refuse)
    for how in ("ack", "nack", "ack"):  # the first fails with its commit, others may while rows are read anew
        with pytest.raises(ReadOnlyError):
            await member.settle(how, (0, 1))
    assert rows(peer, ENTRIES) == before
    assert (await info(peer)).in_flight == 2
    full = False
    await wait_until(lambda: settled(member, (0, 1)))
    await member.has((0, 1), (1, 1), (2, 1))  # nothing was given out twice
    assert await member.settle("ack", (1, 1), (2, 1)) == []
    await member.has((0, 1), (1, 1), (2, 1), (3, 1))
    assert await member.settle("ack", (3, 1)) == []
    assert await figures(peer) == (0, 0, 0, 0, 0)
    assert rows(peer, ENTRIES) == []


async def settled(member: Member, delivery: tuple[int, int]) -> bool:
    try:
        return await member.settle("ack", delivery) == []
    except ReadOnlyError:
        return False


async def test_a_member_that_left_while_nothing_could_be_stored_has_given_back(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
):
    peer = await open_peer(storage_settings=StorageSettings(probe_seconds=0.05))
    store = peer._store
    assert store is not None
    member = await (await open_member(peer)).join()
    await publish(peer, 2)
    await member.has((0, 1), (1, 1))
    with monkeypatch.context() as patch:
        refuse = ReadOnlyError("the disk is full")
        patch.setattr(store, "change", lambda _, done: asyncio.get_running_loop().call_soon(done, refuse))
        with pytest.raises(ReadOnlyError):
            await member.settle("ack", (0, 1))
        await member.leave()
        other = await (await open_member(peer)).join()
    await other.has((0, 2), (1, 2))


# Retention


async def test_the_lag_is_exact_after_retention_and_what_waits_is_gone(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(2, options=AT_ONCE)
    await publish(peer, 10)
    await member.has((0, 1), (1, 1))
    await member.settle("nack", (0, 1), delay_us=3_600_000_000)
    await wait_until(lambda: (2, 1) in member.got)
    await retain(peer, 5)
    assert await figures(peer) == (5, 2, 0, 0, 7)
    await floor_is(peer, 1)
    await member.settle("ack", (1, 1))
    await member.settle("nack", (2, 1), delay_us=0)  # it is not there any more
    await wait_until(lambda: len(member.got) == 5)
    assert member.got[3:] == [(5, 1), (6, 1)]
    assert await figures(peer) == (3, 2, 0, 0, 5)
    await floor_is(peer, 5)


async def floor_is(peer: pubsub.Peer, offset: int) -> None:
    """Wait until it is on disk that everything below an offset is done, and nothing from there on."""
    await wait_until(lambda: peer._node.groups.floor(peer._node.store.topics[TOPIC]) == offset)


async def test_the_floor_is_the_lowest_of_all_groups(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    topic = peer._node.store.topics[TOPIC]
    assert peer._node.groups.floor(topic) is None
    first = await (await open_member(peer)).join(group="first")
    second = await (await open_member(peer)).join(group="second")
    await publish(peer, 4)
    await first.has(*((n, 1) for n in range(4)))
    await second.has(*((n, 1) for n in range(4)))
    await first.settle("ack", (0, 1), (1, 1), (3, 1))
    await second.settle("ack", (0, 1))
    await floor_is(peer, 1)
    await second.settle("ack", (1, 1), (2, 1), (3, 1))
    await floor_is(peer, 2)


# Looking and changing


async def test_a_peek_shows_what_comes_next_and_changes_nothing(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await (await open_member(peer)).join(2)
    await publish(peer, 6)
    await member.has((0, 1), (1, 1))
    assert [message.offset for message in await peer.peek_group(TOPIC, "g", limit=3)] == [2, 3, 4]
    await member.leave()
    assert [message.offset for message in await peer.peek_group(TOPIC, "g", limit=3)] == [0, 1, 2]
    frame = m.PeekGroup(id=member.link.next_id(), topic=TOPIC, group="g", limit=9)
    reply = await member.link.request(frame, SECONDS)
    assert isinstance(reply, m.QueryResult)
    assert reply.batch is not None
    assert reply.batch.attempts == [1, 1, 0, 0, 0, 0]
    assert reply.batch.payloads == [b"%d" % n for n in range(6)]
    assert await figures(peer) == (6, 0, 0, 0, 6)


async def test_a_reset_begins_anew_and_ends_every_old_delivery(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 4)
    await member.has(*((n, 1) for n in range(4)))
    await member.settle("ack", (0, 1), (1, 1))
    assert await peer.reset_group(TOPIC, "g", 1) == "group g of jobs goes on at offset 1"
    await wait_until(lambda: member.ended)
    assert member.ended is not None
    assert member.ended.code == "conflict"  # retriable: a client joins again
    assert await member.settle("ack", (2, 1)) == [2]
    assert await figures(peer) == (3, 0, 0, 0, 3)
    again = await Member(member.link).join()
    await again.has((1, 1), (2, 1), (3, 1))
    await peer.reset_group(TOPIC, "g", "latest")
    assert await figures(peer) == (0, 0, 0, 0, 0)
    with pytest.raises(OffsetOutOfRangeError):
        await peer.reset_group(TOPIC, "g", 5)


async def test_a_deleted_group_ends_its_members_and_may_be_made_anew(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 2)
    await member.has((0, 1), (1, 1))
    assert await peer.delete_group(TOPIC, "g") == "group g of jobs is deleted"
    await wait_until(lambda: member.ended)
    assert member.ended is not None
    assert member.ended.code == "group_not_found"
    assert await peer.groups(TOPIC) == []
    assert rows(peer, ENTRIES) == []
    with pytest.raises(GroupNotFoundError):
        await peer.group(TOPIC, "g")
    again = await (await open_member(peer)).join()
    await again.has((0, 1), (1, 1))


async def test_a_dropped_topic_ends_its_groups(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    await kill(peer, await open_member(peer), 1)
    member = await (await open_member(peer)).join()
    await publish(peer, 1)
    await wait_until(lambda: member.got)
    await peer._node.drop_copy(1)
    await wait_until(lambda: member.ended)
    assert member.ended is not None
    assert member.ended.code == "topic_not_found"
    await wait_until(lambda: rows(peer, "SELECT * FROM groups") == [])
    assert rows(peer, "SELECT * FROM group_messages") == []
    assert rows(peer, "SELECT * FROM dead_letters") == []
    assert len(await peer.query(f"{TOPIC}.dead")) == 1  # a topic of its own


# What cannot be


BAD_JOINS = [
    ({"group": "a.b"}, InvalidNameError),
    ({"group": ""}, InvalidNameError),
    ({"group": "x" * 65}, InvalidNameError),
    ({"max_in_flight": 0}, InvalidRequestError),
    ({"max_in_flight": -1}, InvalidRequestError),
    ({"max_in_flight": 10_001}, InvalidRequestError),
    ({"window_bytes": 0}, InvalidRequestError),
    ({"name": "x" * 201}, InvalidRequestError),
    ({"options": {"lease_seconds": -1}}, InvalidRequestError),
    ({"options": {"max_attempts": "many"}}, InvalidRequestError),
    ({"options": {"colour": "red"}}, InvalidRequestError),
    ({"start": 99}, OffsetOutOfRangeError),
    ({"start": -9}, OffsetOutOfRangeError),
    ({"topic": "none"}, TopicNotFoundError),
    ({"topic_id": 77}, TopicNotFoundError),
]


@pytest.mark.parametrize(("fields", "error"), BAD_JOINS, ids=str)
async def test_a_join_that_cannot_be_is_told_in_one_line_and_makes_nothing(
    open_peer: OpenPeer, open_member: OpenMember, fields: dict[str, Any], error: type[PubsubError]
):
    peer = await open_peer()
    member = await open_member(peer)
    with pytest.raises(error) as caught:
        await member.join(**fields)
    assert "\n" not in caught.value.message
    assert rows(peer, "SELECT * FROM groups") == []
    assert (await member.join()).joined is not None  # the number is free


async def test_a_number_in_use_is_refused_for_members_and_for_subscriptions(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    with pytest.raises(InvalidRequestError, match="already"):
        await member.join()
    with pytest.raises(InvalidRequestError, match="already"):
        await member.link.request(
            m.Subscribe(id=99, subscription=member.number, topic=TOPIC, window_messages=1, window_bytes=1),
            SECONDS,
        )


async def test_a_topic_with_no_room_for_the_name_of_its_dead_letters_has_no_groups(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer("x" * 196)
    with pytest.raises(InvalidNameError, match="dead letter"):
        await (await open_member(peer)).join(topic="x" * 196)


@pytest.mark.parametrize(
    "fields",
    [
        {"how": "forget"},
        {"attempts": [1]},
        {"delay_us": -2},
        {"delay_us": 10**18},
        {"offsets": [0] * 10_001, "attempts": [1] * 10_001},
    ],
    ids=str,
)
async def test_a_settle_that_cannot_be_is_refused_and_changes_nothing(
    open_peer: OpenPeer, open_member: OpenMember, fields: dict[str, Any]
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 2)
    await member.has((0, 1), (1, 1))
    settle = {"how": "nack", "offsets": [0, 1], "attempts": [1, 1], "delay_us": 0} | fields
    with pytest.raises(InvalidRequestError):
        await member.link.request(
            m.Settle(id=member.link.next_id(), subscription=member.number, **settle), SECONDS
        )
    assert (await info(peer)).in_flight == 2


async def test_changes_to_what_is_not_there_are_told(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await open_member(peer)
    ids = count(1000)
    for frame in (
        m.Groups(next(ids), TOPIC, "none"),
        m.PeekGroup(id=next(ids), topic=TOPIC, group="none", limit=1),
        m.ChangeGroup(id=next(ids), topic=TOPIC, group="none", how="reset"),
    ):
        with pytest.raises(GroupNotFoundError, match="topic jobs has no group none"):
            await member.link.request(frame, SECONDS)
    await member.join()
    for frame in (
        m.ChangeGroup(id=next(ids), topic=TOPIC, group="g", how="forget"),
        m.PeekGroup(id=next(ids), topic=TOPIC, group="g", limit=0),
    ):
        with pytest.raises(InvalidRequestError):
            await member.link.request(frame, SECONDS)
