"""What an index says of copies is carried out to its end."""

from __future__ import annotations

import asyncio

from pubsub.protocol import messages as m
from tests.integration.peer.grouping import SECONDS, OpenPeer
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
