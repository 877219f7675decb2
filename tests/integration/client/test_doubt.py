"""Messages of which it is not known whether they are stored: their numbers are never another's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import pubsub
from pubsub.config import ClientSettings
from pubsub.errors import PubsubError, TooFewCopiesError
from pubsub.protocol.messages import Publish, Published
from tests.waiting import wait_until

Answer = Callable[[Published | PubsubError], None]


class Owner:
    """What the owner of a topic does with each publish, one after the other; then it does as it should."""

    def __init__(self, peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peer = peer
        self.todo: list[Callable[[Publish, Answer], None]] = []
        self.came: list[tuple[int, bytes | None]] = []
        """Number and first payload of each."""
        self.store = peer._node.publishing.publish
        monkeypatch.setattr(peer._node.publishing, "publish", self._take)

    def _take(self, frame: Publish, answer: Answer) -> None:
        self.came.append((frame.sequence, frame.payloads[0]))
        (self.todo.pop(0) if self.todo else self.store)(frame, answer)

    def store_and_doubt(self, frame: Publish, answer: Answer) -> None:
        """It is stored, but not on as many copies as it must be."""
        error = TooFewCopiesError("too few")
        error.data["fate"] = "unknown"
        self.store(frame, lambda _: answer(error))

    def store_silently(self, frame: Publish, answer: Answer) -> None:
        self.store(frame, lambda _: None)

    def refuse(self, frame: Publish, answer: Answer) -> None:
        """Without a look at what is there."""
        answer(TooFewCopiesError("too few"))

    def ignore(self, frame: Publish, answer: Answer) -> None:
        """It never came."""

    async def stored(self) -> list[bytes | None]:
        return [message.payload for message in await self.peer.query("a.b")]


@pytest.fixture
def owner(peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch) -> Owner:
    return Owner(peer, monkeypatch)


async def one_by_one(client: pubsub.Client, owner: Owner, *payloads: bytes) -> list[asyncio.Task[int]]:
    """Publish each in a batch of its own, all under way at once."""
    tasks = []
    for number, payload in enumerate(payloads, len(owner.came) + 1):
        tasks.append(asyncio.create_task(client.publish("a.b", payload)))
        await wait_until(lambda number=number: len(owner.came) == number)
    return tasks


def cut(peer: pubsub.Peer) -> None:
    """Break all connections."""
    for connection in list(peer._server.connections):
        connection.abort()


async def test_the_number_of_a_message_that_was_given_up_in_doubt_is_not_given_to_the_next(
    peer: pubsub.Peer, owner: Owner
) -> None:
    settings = ClientSettings(timeout_seconds=0.6, backoff_first_seconds=0.01)
    async with pubsub.Client(peer.address, settings=settings) as client:
        owner.todo = [owner.store_and_doubt, *[owner.refuse] * 1000]
        with pytest.raises(pubsub.TimeoutExpiredError, match="whether they were stored is unknown"):
            await client.publish("a.b", b"first")
        assert len(owner.came) > 2
        assert {number for number, _ in owner.came} == {0}
        owner.todo.clear()
        assert await client.publish("a.b", b"second") == 1
    assert await owner.stored() == [b"first", b"second"]


async def test_what_is_refused_when_it_is_sent_again_keeps_its_number_while_the_next_is_acknowledged(
    peer: pubsub.Peer, owner: Owner
) -> None:
    settings = ClientSettings(backoff_first_seconds=0.01)
    async with pubsub.Client(peer.address, settings=settings) as client:
        owner.todo = [owner.store_silently, owner.store_silently, owner.refuse]
        tasks = await one_by_one(client, owner, b"0", b"1")
        cut(peer)
        assert await asyncio.gather(*tasks) == [0, 1]
        assert await client.publish("a.b", b"2") == 2
    assert await owner.stored() == [b"0", b"1", b"2"]
    assert {payload: number for number, payload in owner.came} == {b"0": 0, b"1": 1, b"2": 2}


async def test_what_was_acknowledged_out_of_order_leaves_its_number_free(
    peer: pubsub.Peer, owner: Owner
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", b"0")
        owner.todo = [owner.store_silently, owner.store, owner.ignore]
        tasks = await one_by_one(client, owner, b"1", b"2", b"3")
        await wait_until(tasks[1].done)
        cut(peer)
        assert await asyncio.gather(*tasks) == [1, 2, 3]
        assert await client.publish("a.b", b"4") == 4
    assert await owner.stored() == [b"%d" % n for n in range(5)]


async def test_a_message_that_is_not_acknowledged_leaves_the_connection_to_others_that_are(
    peer: pubsub.Peer, owner: Owner
) -> None:
    settings = ClientSettings(timeout_seconds=0.5)
    async with pubsub.Client(peer.address, settings=settings) as client:
        await client.publish("a.b", b"0")
        connections = set(peer._server.connections)
        owner.todo = [owner.ignore]
        lost = asyncio.create_task(client.publish("a.b", b"lost"))
        await wait_until(lambda: len(owner.came) == 2)

        async def asked() -> bool:
            assert len(await client.query("a.b")) == 1
            return lost.done()

        await wait_until(asked)
        with pytest.raises(pubsub.TimeoutExpiredError):
            await lost
        assert set(peer._server.connections) == connections
        assert await client.publish("a.b", b"1") == 1
    assert await owner.stored() == [b"0", b"1"]


async def test_an_owner_that_says_nothing_at_all_is_connected_to_anew(
    peer: pubsub.Peer, owner: Owner
) -> None:
    settings: Any = ClientSettings(timeout_seconds=0.5)
    async with pubsub.Client(peer.address, settings=settings) as client:
        await client.publish("a.b", b"0")
        connections = set(peer._server.connections)
        owner.todo = [owner.ignore]
        with pytest.raises(pubsub.TimeoutExpiredError):
            await client.publish("a.b", b"lost")
        await wait_until(lambda: connections - peer._server.connections)
        assert await client.publish("a.b", b"1") == 1
