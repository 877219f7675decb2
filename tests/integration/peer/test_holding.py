"""What an index says of copies is carried out to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pubsub.config import PeerSettings
from pubsub.errors import ConflictError, NotOwnerError, ReadOnlyError
from pubsub.peer.following import NEVER_A_VERSION
from pubsub.peer.node import Node
from pubsub.peer.registration import Registration
from pubsub.protocol import messages as m
from tests.integration.peer.grouping import SECONDS, TOPIC, OpenPeer
from tests.integration.peer.tapping import OpenLink
from tests.integration.storage.stores import writer_held
from tests.waiting import wait_until


def copy(owner: str, epoch: int) -> m.CopyState:
    names = ["bob", "carol", "alice"]
    return m.CopyState(
        id=7,
        topic="copied",
        role="replica",
        owner=owner,
        epoch=epoch,
        replicas=names,
        in_sync=names,
        version=1,
    )


async def test_a_copy_follows_its_new_owner_though_the_index_that_says_so_is_lost_meanwhile(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    node = (peer := await open_peer())._node
    await node.holding.take(copy("bob", 5))
    followed = node.following._sources
    assert list(followed) == ["bob"]
    link = await open_link(peer)
    async with writer_held(node.store):
        frame = m.CreateCopy(link.next_id(), copy("carol", 6))
        telling = asyncio.create_task(link.request(frame, SECONDS))
        await wait_until(lambda: not followed)
        link.abort()
        await asyncio.gather(telling, return_exceptions=True)
        await wait_until(lambda: peer._server._lasting)
    topic = node.store.topics["copied"]
    await wait_until(lambda: (topic.owner, topic.epoch, list(followed)) == ("carol", 6, ["carol"]))


@pytest.mark.parametrize("what", ["subscribe", "commit a cursor", "reset a cursor", "join"])
async def test_nobody_is_served_by_an_owner_that_is_giving_its_topic_up(
    open_peer: OpenPeer, open_link: OpenLink, what: str
) -> None:
    peer = await open_peer()
    node = peer._node
    topic = node.store.topics[TOPIC]
    await node.store.cursors.take(topic.id, topic.name, "d", 0)
    (cursor,) = node.store.cursors.all()
    link = await open_link(peer)
    frames = {
        "subscribe": m.Subscribe(
            id=1, subscription=1, topic=TOPIC, start=0, window_messages=1, window_bytes=1
        ),
        "commit a cursor": m.CommitCursor(
            id=1, topic=TOPIC, topic_id=topic.id, name="d", position=0, generation=cursor.generation
        ),
        "reset a cursor": m.ChangeCursor(id=1, topic=TOPIC, name="d", how="reset", start=0),
        "join": m.JoinGroup(id=1, subscription=1, topic=TOPIC, group="g", max_in_flight=1, window_bytes=1),
    }
    async with writer_held(node.store):
        moving = asyncio.create_task(
            node.holding.take(
                m.CopyState(id=topic.id, topic=TOPIC, role="replica", owner="bob", epoch=2, version=1)
            )
        )
        await wait_until(lambda: topic.id in node.changing_hands)
        with pytest.raises(NotOwnerError):
            await link.request(frames[what], SECONDS)
        assert node.groups.floor(topic) == 0
    await moving
    assert (topic.role, node.deliveries.count(), node.members.count()) == ("replica", 0, 0)
    assert node.groups.floor(topic) is None


class Answering:
    """An index that answers one request, after something else has happened to the peer that asked."""

    open = False

    def __init__(self, reply: m.Frame, before: Callable[[], Awaitable[object]]) -> None:
        self._reply, self._before = reply, before

    async def link(self) -> Answering:
        return self

    def next_id(self) -> int:
        return 1

    async def request(self, frame: m.Request, timeout_seconds: float) -> m.Frame:
        await self._before()
        return self._reply


async def drop(node: Node) -> None:
    """Drop the copy until nothing of it is left in the file."""
    await node.drop_copy(7)
    await wait_until(lambda: 7 not in node.store.by_id)


async def test_an_answer_about_a_copy_that_was_dropped_meanwhile_makes_no_new_one(
    open_peer: OpenPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = (await open_peer())._node
    await node.holding.take(copy("bob", 5))
    topic = node.store.topics["copied"]
    answering = Answering(m.Proposed(1, False, copy("carol", 6)), lambda: drop(node))
    monkeypatch.setattr(node, "directory", answering)
    await node.proposing.propose(topic, NEVER_A_VERSION, [])
    assert 7 not in node.store.by_id


async def test_an_answer_to_an_announcement_makes_no_copy_that_was_dropped_since_it_began(
    open_peer: OpenPeer,
) -> None:
    node = (await open_peer())._node
    await node.holding.take(copy("bob", 5))
    registration = Registration(node, PeerSettings())
    reply = m.Reconciled(id=1, create=[copy("bob", 6)])
    await registration._announce(Answering(reply, lambda: drop(node)))  # type: ignore[arg-type]
    assert 7 not in node.store.by_id
    await registration._announce(Answering(reply, lambda: asyncio.sleep(0)))  # type: ignore[arg-type]
    assert node.store.topics["copied"].epoch == 6


async def test_a_copy_whose_rows_are_still_being_deleted_is_not_confirmed_before_it_is_made_anew(
    open_peer: OpenPeer, open_link: OpenLink
) -> None:
    node = (peer := await open_peer())._node
    await node.holding.take(copy("bob", 5))
    link, registration = await open_link(peer), Registration(node, PeerSettings())
    again = copy("bob", 6)
    purge = node.store._purging.purge
    node.store._purging.purge = lambda topic_id: None  # type: ignore[method-assign]
    await node.drop_copy(7)
    with pytest.raises(ConflictError, match="its former copy"):
        await link.request(m.CreateCopy(link.next_id(), again), SECONDS)
    reply = m.Reconciled(id=1, create=[again])
    await registration._announce(Answering(reply, lambda: asyncio.sleep(0)))  # type: ignore[arg-type]
    assert registration._changed  # it announces again, and is told again
    purge(7)
    await wait_until(lambda: 7 not in node.store.by_id)
    await link.request(m.CreateCopy(link.next_id(), again), SECONDS)
    assert node.store.topics["copied"].epoch == 6


async def test_a_copy_that_cannot_be_dropped_is_followed_on(open_peer: OpenPeer) -> None:
    node = (await open_peer())._node
    await node.holding.take(copy("bob", 5))

    async def fail(*_: object) -> None:
        raise ReadOnlyError("the disk is full")

    for change, store_change in ((node.drop_copy, "drop"), (node.set_aside, "set_aside")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node.store, store_change, fail)
            arguments = (7,) if store_change == "drop" else (node.store.topics["copied"], "damaged")
            with pytest.raises(ReadOnlyError):
                await change(*arguments)  # type: ignore[operator]
        assert list(node.following._sources) == ["bob"]
