import asyncio
from collections.abc import AsyncIterator

import pytest

from pubsub.config import Limits
from pubsub.errors import PeerUnavailableError, TimeoutExpiredError
from pubsub.index import peer_links
from pubsub.index.peer_links import PeerLinks
from pubsub.model import Address
from pubsub.protocol import messages as m
from pubsub.protocol.handshake import hello
from tests.integration.index.conftest import StartPeer
from tests.integration.index.fake_peer import a_copy
from tests.ports import choose_free_port
from tests.waiting import wait_until


@pytest.fixture
async def links() -> AsyncIterator[PeerLinks]:
    links = PeerLinks(hello("index"), Limits(), 1.0)
    yield links
    await links.close()


async def test_all_who_want_a_peer_share_one_connection(links: PeerLinks, start_peer: StartPeer) -> None:
    alice = await start_peer("alice")
    found = await asyncio.gather(*(links.get("alice", alice.address) for _ in range(20)))
    assert len(set(found)) == 1
    assert len(alice.server.connections) == 1


async def test_a_connection_that_broke_is_opened_again_on_demand(
    links: PeerLinks, start_peer: StartPeer
) -> None:
    alice = await start_peer("alice")
    first = await links.get("alice", alice.address)
    for connection in list(alice.server.connections):
        connection.abort()
    await first.closed()
    second = await links.get("alice", alice.address)
    assert second.open
    assert second is not first


async def test_a_connection_that_nobody_uses_is_closed(
    links: PeerLinks, start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_links, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(peer_links, "_SWEEP_SECONDS", 0.02)
    alice = await start_peer("alice")
    sweeping = asyncio.create_task(links.run())
    link = await links.get("alice", alice.address)
    await wait_until(lambda: not link.open)
    assert not links._used_at
    assert (await links.get("alice", alice.address)).open
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)


async def test_another_peer_at_the_address_is_not_taken_for_the_one_that_was_meant(
    links: PeerLinks, start_peer: StartPeer
) -> None:
    bob = await start_peer("bob")
    with pytest.raises(PeerUnavailableError, match=f"at {bob.address} answers the peer bob instead"):
        await links.request_all("alice", bob.address, lambda n: m.CreateCopy(n, a_copy()), 1.0)
    assert bob.copies == {}


async def test_a_peer_that_cannot_be_reached_is_named_with_the_reason(links: PeerLinks) -> None:
    nowhere = Address("127.0.0.1", choose_free_port())
    with pytest.raises(
        PeerUnavailableError, match=f"peer alice cannot be reached: cannot connect to {nowhere}"
    ):
        await links.get("alice", nowhere)


async def test_a_peer_that_does_not_reply_costs_no_more_than_the_time_given(
    links: PeerLinks, start_peer: StartPeer
) -> None:
    alice = await start_peer("alice")
    alice.gate.clear()
    with pytest.raises(TimeoutExpiredError, match="did not answer CreateCopy"):
        await links.request_all("alice", alice.address, lambda n: m.CreateCopy(n, a_copy()), 0.1)
