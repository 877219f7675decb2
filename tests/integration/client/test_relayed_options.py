"""Publishing on conditions and for later through the index, for clients that cannot reach the peers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import pubsub
from pubsub.index import IndexServer
from pubsub.model import Address, NewMessage
from pubsub.registry import EmbeddedRegistry
from tests.waiting import wait_until


@pytest.fixture
async def peer_and_client(tmp_path: Path) -> AsyncIterator[tuple[pubsub.Peer, pubsub.Client]]:
    registry = EmbeddedRegistry("127.0.0.1:0")
    async with (
        IndexServer(registry, listen=Address("127.0.0.1", 0)) as index,
        pubsub.Peer("alice", data=tmp_path / "alice", index=str(index.address)) as peer,
        pubsub.Client(str(index.address), relay=True) as client,
    ):
        await peer.create_topic("t")
        yield peer, client


async def test_every_option_of_publish_goes_through_the_index(
    peer_and_client: tuple[pubsub.Peer, pubsub.Client],
) -> None:
    peer, client = peer_and_client
    ids = [NewMessage(name, message_id=name) for name in ("a", "b")]
    assert await client.publish_many("t", ids) == [0, 1]
    assert await client.publish_many("t", [b"x", *reversed(ids), b"y"]) == [2, 1, 0, 3]
    assert await client.publish("t", "a", message_id="a") == 0
    with pytest.raises(pubsub.WrongOffsetError) as caught:
        await client.publish("t", b"no", expect_offset=1)
    assert caught.value.data["next_offset"] == 4
    assert await client.publish_many("t", [b"4", b"5"], atomic=True, expect_offset=4) == [4, 5]
    assert await client.publish("t", b"much later", delay_seconds=3600) == 1
    assert await client.publish("t", b"soon", delay_seconds=0.01) == 2

    async def came() -> bool:
        return [message.payload for message in await client.query("t", start=6)] == [b"soon"]

    await wait_until(came)
    assert [message.payload for message in await peer.scheduled("t")] == [b"much later"]
    assert (await client.topic("t")).scheduled == 1
