"""An index and peers in this process, with topics that live on several of them: for tests of replication."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pubsub
from pubsub.client.client import Client
from pubsub.config import IndexSettings
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.registry import EmbeddedRegistry
from pubsub.storage.topic import Topic
from tests.waiting import wait_until

PATIENCE_SECONDS = 45.0
"""The machine may be busy with other tests."""

Rows = list[tuple[int, int, str | None, str | None, bytes | None, str | None]]


class Cluster:
    """One index, and peers by name."""

    def __init__(self, directory: Path, index: IndexServer, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.index = index
        self.address = str(index.address)
        self.peers: dict[str, pubsub.Peer] = {}
        self._stack = stack

    async def start(self, *names: str, **options: Any) -> None:
        for name in names:
            peer = pubsub.Peer(name, data=self.directory / name, index=self.address, **options)
            self.peers[name] = await self._stack.enter_async_context(peer)

    async def client(self) -> Client:
        return await self._stack.enter_async_context(pubsub.Client(self.address))

    async def stop(self, name: str) -> None:
        """Gracefully."""
        await self.peers.pop(name).close()

    async def kill(self, name: str) -> None:
        """At once: nobody is told, connections break."""
        peer = self.peers.pop(name)
        node = peer._node
        node.registered = False  # so nothing is handed over
        node.following.leaving = True  # so it says nothing of it
        await node.following.close()
        assert peer._registering is not None
        peer._registration._link = None
        for connection in list(peer._server.connections):
            connection.abort()
        await peer.close()

    def held(self, name: str, topic: str) -> Topic:
        return self.peers[name]._node.store.topics[topic]

    def holders(self, topic: str) -> list[str]:
        return [name for name, peer in self.peers.items() if topic in peer._node.store.topics]

    def owner(self, topic: str) -> str:
        """Who owns a topic, in the highest epoch."""
        owners = [name for name in self.holders(topic) if self.held(name, topic).owned]
        return max(owners, key=lambda name: self.held(name, topic).epoch) if owners else ""

    async def in_sync(self, topic: str, *names: str) -> None:
        """Wait until the owner has it confirmed that these copies, no others, are in sync."""

        def are() -> bool:
            owner = self.owner(topic)
            return bool(owner) and set(self.held(owner, topic).in_sync) == set(names)

        await wait_until(are, PATIENCE_SECONDS, f"{names} in sync")

    async def rows(self, name: str, topic: str) -> Rows:
        node = self.peers[name]._node
        topic_id = node.store.topics[topic].id

        def read(connection: object) -> Rows:
            result = connection.exec_driver_sql(  # type: ignore[attr-defined]
                "SELECT offset, published_at, key, headers, payload, batch FROM messages "
                "WHERE topic_id = ? ORDER BY offset",
                (topic_id,),
            )
            return [tuple(row) for row in result]

        return await node.store.look(read)

    async def equal(self, topic: str) -> Rows:
        """Wait until all copies are the same, and return their rows."""

        async def are() -> list[Rows]:
            found = [await self.rows(name, topic) for name in self.holders(topic)]
            ends = {self.held(name, topic).next_offset for name in self.holders(topic)}
            return found if len(ends) == 1 and all(rows == found[0] for rows in found) else []

        return (await wait_until(are, PATIENCE_SECONDS, "all copies equal"))[0]


@asynccontextmanager
async def cluster(directory: Path, *names: str, ttl_seconds: float = 2.0) -> AsyncIterator[Cluster]:
    """An index and these peers; all end with it."""
    settings = IndexSettings(ttl_seconds=ttl_seconds)
    async with AsyncExitStack() as stack:
        registry = EmbeddedRegistry("127.0.0.1:0")
        index = await stack.enter_async_context(
            IndexServer(registry, listen=Address("127.0.0.1", 0), settings=settings)
        )
        found = Cluster(directory, index, stack)
        await found.start(*names)
        yield found
