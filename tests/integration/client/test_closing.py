"""Closing goes on to its end, whatever becomes of those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import pubsub
from pubsub.client.routes import Route
from pubsub.model import parse_address
from pubsub.net.server import ServerConnection
from pubsub.protocol import messages as m
from pubsub.storage.store import Store
from tests.integration.client.conftest import NOBODY
from tests.integration.client.fake_owner import FakeOwner
from tests.waiting import wait_until


class SlowOwner(FakeOwner):
    """Takes what is published, and acknowledges it when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.immediate = {m.Publish: self.on_publish}
        self.publishes: list[tuple[ServerConnection, m.Publish]] = []

    def on_publish(self, connection: ServerConnection, frame: m.Publish) -> None:
        self.publishes.append((connection, frame))

    def acknowledge(self) -> None:
        for connection, frame in self.publishes:
            connection.send_frame(m.Published(frame.id, 7))

    @property
    def connections(self) -> int:
        return len(self._server.connections)


@pytest.fixture
async def owner() -> AsyncIterator[SlowOwner]:
    async with SlowOwner() as owner:
        yield owner


async def publish_slowly(client: pubsub.Client, owner: SlowOwner) -> asyncio.Task[int]:
    """Publish what the owner does not acknowledge yet."""
    publishing = asyncio.create_task(client.publish("x.y", b"slow"), name="publish")
    await wait_until(lambda: owner.publishes)
    return publishing


async def give_up_closing(client: pubsub.Client) -> None:
    """Begin to close; whoever waits for it is cancelled when what was published is waited for."""
    closing = asyncio.create_task(client.close(), name="close")
    await wait_until(lambda: client._closed)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_whoever_closes_again_after_a_cancelled_close_waits_for_its_end(owner: SlowOwner) -> None:
    client = pubsub.Client(owner.address)
    await client.open()
    publishing = await publish_slowly(client, owner)
    await give_up_closing(client)
    again = [asyncio.create_task(client.close(), name="close again") for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(closing.done() for closing in again)
    assert not publishing.done()
    owner.acknowledge()
    await asyncio.gather(*again)
    assert await publishing == 7
    await wait_until(lambda: owner.connections == 0, description="its connections are closed")


async def test_a_peer_whose_close_is_cancelled_lets_go_of_its_data(owner: SlowOwner, tmp_path: Path) -> None:
    peer = pubsub.Peer("alice", data=tmp_path, index=NOBODY)
    await peer.open()
    peer._routes._known["x.y"] = Route(
        topic="x.y", topic_id=7, epoch=1, owner="fake", address=parse_address(owner.address)
    )
    publishing = await publish_slowly(peer, owner)
    await give_up_closing(peer)
    owner.acknowledge()
    await peer.close()
    assert await publishing == 7
    assert not peer._server.connections
    store = await Store.open(tmp_path, "alice")
    await store.close()


@pytest.mark.parametrize("opened", [True, False])
async def test_a_client_that_has_been_closed_is_not_opened_again(owner: SlowOwner, opened: bool) -> None:
    client = pubsub.Client(owner.address)
    if opened:
        await client.open()
    await asyncio.gather(client.close(), client.close())
    await client.close()
    with pytest.raises(pubsub.ClosedError, match="make a new one"):
        await client.open()
