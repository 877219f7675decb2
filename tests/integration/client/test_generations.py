"""Topics of one name created one after the other: the later one stays, whatever arrives late."""

from __future__ import annotations

import pytest

import pubsub
from pubsub.protocol.messages import CopyState


def copy_of(topic_id: int, created_us: int) -> CopyState:
    return CopyState(id=topic_id, topic="again", role="owner", owner="alice", epoch=1, created_us=created_us)


async def test_an_order_to_create_an_older_topic_that_was_held_up_is_refused(peer: pubsub.Peer) -> None:
    await peer._node.holding.take(copy_of(1001, created_us=10))
    await peer._node.holding.take(copy_of(1002, created_us=20))  # the newer one takes the name
    await peer.publish("again", b"of the newer one")
    with pytest.raises(pubsub.TopicExistsError):
        await peer._node.holding.take(copy_of(1001 + 2, created_us=5))
    assert [m.payload for m in await peer.query("again")] == [b"of the newer one"]
