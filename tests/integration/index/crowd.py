"""Several fake peers that live, and topics with replicas on them."""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any

from pubsub.index import IndexServer
from pubsub.model import TopicInfo
from pubsub.net.link import Link
from pubsub.registry import TopicRecord
from tests.integration.index.asking import create, registry_of
from tests.integration.index.fake_peer import FakePeer
from tests.waiting import wait_until

TTL = 1.0


class Crowd:
    """Peers by name; each sends heartbeats until it is killed."""

    def __init__(self, start_peer: Callable[..., Awaitable[FakePeer]], stack: AsyncExitStack) -> None:
        self._start_peer = start_peer
        self._stack = stack
        self._lives: dict[str, AsyncExitStack] = {}
        self.peers: dict[str, FakePeer] = {}

    def __getitem__(self, name: str) -> FakePeer:
        return self.peers[name]

    async def start(self, index: IndexServer, *names: str, ttl: float = TTL, **options: Any) -> None:
        for name in names:
            peer = self.peers[name] = await self._start_peer(name)
            await peer.connect(index)
            await peer.register(**options)
            await peer.reconcile()
            await self.revive(name, ttl)

    async def revive(self, name: str, ttl: float = TTL) -> None:
        """It sends heartbeats (again)."""
        life = self._lives[name] = await self._stack.enter_async_context(AsyncExitStack())
        await life.enter_async_context(self.peers[name].living(ttl))

    async def silence(self, *names: str) -> None:
        """They send no heartbeats any more, and answer nobody."""
        for name in names:
            self.peers[name].gate.clear()
            await self._lives.pop(name).aclose()

    async def create(
        self, link: Link, topic: str, replicas: int = 3, in_sync: bool = True, **fields: Any
    ) -> TopicInfo:
        """A topic, all of whose replicas are in sync."""
        policy = {"replicas": replicas} | fields.pop("policy", {})
        info = await create(link, topic, policy=policy, **fields)
        for name in info.replicas:
            await self[name].until_held(info.id)
        if in_sync:
            assert (await self[info.owner].propose(topic, info.replicas)).applied
        return info


async def record_of(index: IndexServer, topic: str) -> TopicRecord:
    (record,) = await registry_of(index).lookup([topic])
    assert record is not None
    return record


async def until_owned(
    index: IndexServer, topic: str, owners: Iterable[str], seconds: float = 5.0
) -> TopicRecord:
    """The record, once one of these peers owns the topic."""
    wanted = set(owners)

    async def found() -> TopicRecord | None:
        record = await record_of(index, topic)
        return record if record.owner in wanted else None

    record = await wait_until(found, seconds)
    assert record is not None
    return record
