"""What an index says of copies is carried out to its end."""

from __future__ import annotations

import asyncio

import pytest

from pubsub.errors import NotOwnerError, ReadOnlyError
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
    await node.create_copy(copy("bob", 5))
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
            node.create_copy(
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


async def test_a_copy_that_cannot_be_dropped_is_followed_on(open_peer: OpenPeer) -> None:
    node = (await open_peer())._node
    await node.create_copy(copy("bob", 5))

    async def fail(*_: object) -> None:
        raise ReadOnlyError("the disk is full")

    for change, store_change in ((node.drop_copy, "drop"), (node.set_aside, "set_aside")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node.store, store_change, fail)
            arguments = (7,) if store_change == "drop" else (node.store.topics["copied"], "damaged")
            with pytest.raises(ReadOnlyError):
                await change(*arguments)  # type: ignore[operator]
        assert list(node.following._sources) == ["bob"]
