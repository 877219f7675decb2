"""Groups as a peer serves them, seen through raw connections: giving out, failing, and the clock."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from pubsub.config import KIB, Limits
from pubsub.protocol import messages as m
from tests.integration.peer.grouping import (
    AT_ONCE,
    ENTRIES,
    TOPIC,
    OpenMember,
    OpenPeer,
    figures,
    info,
    publish,
    rows,
)
from tests.stopwatch import Stopwatch
from tests.waiting import wait_until

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
    before, watch = loop.time(), Stopwatch()
    assert await member.settle("nack", (0, 1), delay_us=200_000) == []
    assert await figures(peer) == (0, 0, 1, 0, 1)
    await member.has((0, 1), (0, 2))
    assert loop.time() - before >= 0.19
    assert watch.seconds < 1.5
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
    watch = Stopwatch()
    lost.link.abort()
    await other.has(*((n, 2) for n in range(5)))
    assert watch.seconds < 2
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
    work._timer._fire()  # timers before sockets, as uvloop does it
    assert await extending == []
    assert await member.settle("ack", (0, 1)) == []
    await member.has((0, 1), (1, 1), (1, 2))  # of which nothing was heard
