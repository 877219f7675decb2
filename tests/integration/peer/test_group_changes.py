"""Changes of groups that wait for the disk: who asked may go away, the topic may move, others are not kept waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pubsub
from pubsub.errors import InvalidRequestError, NotOwnerError
from pubsub.protocol import messages as m
from tests.integration.peer.grouping import (
    ENTRIES,
    SECONDS,
    TOPIC,
    Member,
    OpenMember,
    OpenPeer,
    publish,
    rows,
    subscribe,
)
from tests.waiting import wait_until


class Held:
    """What is stored for groups from now on is answered only once `go` is set."""

    def __init__(self, peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stored = asyncio.Event()
        self.go = asyncio.Event()
        self._run = peer._node.store.run
        monkeypatch.setattr(peer._node.store, "run", self._hold)

    async def _hold(self, statements: Any) -> None:
        await self._run(statements)
        self.stored.set()
        await self.go.wait()


def change(member: Member, how: str, start: int = 0) -> asyncio.Task[m.Frame]:
    frame = m.ChangeGroup(id=member.link.next_id(), topic=TOPIC, group="g", how=how, start=start)
    return asyncio.create_task(member.link.request(frame, SECONDS))


async def lose(peer: pubsub.Peer, member: Member, waiting: asyncio.Task[Any]) -> None:
    """Its connection is lost with a request under way, and the peer knows."""
    member.link.abort()
    await asyncio.gather(waiting, return_exceptions=True)
    await wait_until(lambda: peer._server._lasting)


async def test_a_group_whose_first_member_is_lost_while_it_is_made_can_be_joined(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer()
    held = Held(peer, monkeypatch)
    first = await open_member(peer)
    joining = asyncio.create_task(first.join())
    await held.stored.wait()
    await lose(peer, first, joining)
    held.go.set()
    await publish(peer, 2)
    again = await (await open_member(peer)).join()
    await again.has((0, 1), (1, 1))
    assert peer._node.members.count() == 1


async def test_a_number_that_is_given_up_and_taken_anew_is_not_the_first_ones_any_more(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer()
    held = Held(peer, monkeypatch)
    member = await open_member(peer)
    joining = asyncio.create_task(member.join())
    await held.stored.wait()
    await member.leave()
    looked, go_on = asyncio.Event(), asyncio.Event()
    offset_at = peer._node.store.offset_at

    async def look(*arguments: Any) -> int:
        looked.set()
        await go_on.wait()
        return await offset_at(*arguments)

    monkeypatch.setattr(peer._node.store, "offset_at", look)
    reading = asyncio.create_task(subscribe(member, member.number))
    await looked.wait()
    held.go.set()
    with pytest.raises(InvalidRequestError, match="ended before it began"):
        await joining
    go_on.set()
    assert isinstance(await reading, m.Subscribed)
    assert (peer._node.members.count(), peer._node.deliveries.count()) == (0, 1)


async def test_a_reset_is_carried_out_though_whoever_asked_is_lost(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer()
    member, operator = await (await open_member(peer)).join(), await open_member(peer)
    await publish(peer, 5)
    await member.has(*((n, 1) for n in range(5)))
    held = Held(peer, monkeypatch)
    resetting = change(operator, "reset", start=3)
    await held.stored.wait()
    await lose(peer, operator, resetting)
    held.go.set()
    await wait_until(lambda: member.ended)
    again = await (await open_member(peer)).join()
    await again.has((3, 1), (4, 1))
    assert [(offset, attempts) for offset, _, attempts, _ in rows(peer, ENTRIES)] == [(3, 1), (4, 1)]


async def test_a_deletion_is_carried_out_though_whoever_asked_is_lost(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer()
    member, operator = await (await open_member(peer)).join(), await open_member(peer)
    held = Held(peer, monkeypatch)
    deleting = change(operator, "delete")
    await held.stored.wait()
    await lose(peer, operator, deleting)
    held.go.set()
    await wait_until(lambda: member.ended)
    assert await peer.groups(TOPIC) == []
    assert (await (await open_member(peer)).join()).joined is not None


async def test_a_peer_that_ends_waits_for_what_it_has_begun(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer()
    operator = await (await open_member(peer)).join()
    held = Held(peer, monkeypatch)
    deleting = change(operator, "delete")
    await held.stored.wait()
    await lose(peer, operator, deleting)
    (carried_out,) = peer._server._lasting
    closing = asyncio.create_task(peer.close())
    await wait_until(lambda: peer._server._server is not None and not peer._server._server.is_serving())
    assert not carried_out.done()
    held.go.set()
    await closing
    assert carried_out.done()
    assert not carried_out.cancelled()


async def test_a_group_that_is_made_keeps_no_other_group_waiting(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = await open_peer(TOPIC, "other")
    await (await open_member(peer)).join(group="there")
    held = Held(peer, monkeypatch)
    first = asyncio.create_task((await open_member(peer)).join())
    await held.stored.wait()
    await (await open_member(peer)).join(group="there")
    held.stored.clear()
    second = asyncio.create_task((await open_member(peer)).join(topic="other"))
    await asyncio.wait_for(held.stored.wait(), SECONDS)
    held.go.set()
    await asyncio.gather(first, second)


@pytest.mark.parametrize("what", ["join", "reset", "delete"])
async def test_a_change_of_a_group_whose_topic_moves_meanwhile_is_to_be_asked_for_at_its_owner(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    peer = await open_peer()
    topic = peer._node.store.topics[TOPIC]
    member, operator = await (await open_member(peer)).join(), await open_member(peer)
    moved, asked = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> int:
        asked.set()
        await moved.wait()
        return 0

    monkeypatch.setattr("pubsub.peer.groups.find_position", wait)
    (work,) = peer._node.groups.of(topic)
    monkeypatch.setattr(work.burying, "finished", wait)
    if what == "join":
        asking: asyncio.Task[Any] = asyncio.create_task(operator.join(group="another"))
    else:
        asking = change(operator, what)
    await asked.wait()
    topic.role = "replica"
    peer._node.groups.leave_topic(topic, NotOwnerError("elsewhere"))
    moved.set()
    with pytest.raises(NotOwnerError):
        await asking
    assert rows(peer, "SELECT name FROM groups") == [("g",)]
    await wait_until(lambda: member.ended)
