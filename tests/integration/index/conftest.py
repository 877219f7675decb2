"""Indexes on the embedded registry and on a real redis-server, peers and links; all end with the test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from pubsub.config import IndexSettings, Limits
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.net.link import Link, connect
from pubsub.protocol.handshake import hello
from pubsub.registry import EmbeddedRegistry, RedisRegistry
from tests.integration.index.crowd import Crowd
from tests.integration.index.fake_peer import FakePeer

StartIndex = Callable[..., Awaitable[IndexServer]]
StartPeer = Callable[..., Awaitable[FakePeer]]
Connect = Callable[[IndexServer], Awaitable[Link]]
MakeRegistry = Callable[[], RedisRegistry]


@pytest.fixture(params=["embedded", "redis"])
def make_registry(request: pytest.FixtureRequest) -> MakeRegistry:
    """A function that makes registries: on the test's redis-server, or each its own embedded one."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_server")
        return lambda: RedisRegistry(url, reply_seconds=1.0)
    return lambda: EmbeddedRegistry("127.0.0.1:0")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what was started, the latest first."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start_index(make_registry: MakeRegistry, stack: AsyncExitStack) -> StartIndex:
    """A function that starts an index; keywords are settings, `registry` and `limits`."""

    async def start(
        registry: RedisRegistry | None = None, limits: Limits | None = None, **settings: Any
    ) -> IndexServer:
        return await stack.enter_async_context(
            IndexServer(
                registry or make_registry(),
                listen=Address("127.0.0.1", 0),
                settings=IndexSettings(**settings),
                limits=limits,
            )
        )

    return start


@pytest.fixture
def start_peer(stack: AsyncExitStack) -> StartPeer:
    """A function that starts a peer and, given an index, registers it there."""

    async def start(name: str, index: IndexServer | None = None, **options: Any) -> FakePeer:
        peer = FakePeer(name, **options)
        await peer.start(index)
        stack.push_async_callback(peer.close)
        if index is not None:
            await peer.register()
            await peer.announce()
        return peer

    return start


@pytest.fixture
def crowd(start_peer: StartPeer, stack: AsyncExitStack) -> Crowd:
    """Peers that live."""
    return Crowd(start_peer, stack)


@pytest.fixture
def open_link(stack: AsyncExitStack) -> Connect:
    """A function that connects to an index as a client does."""

    async def open_(index: IndexServer) -> Link:
        link = await connect(index.address, hello("client"), Limits())

        async def close() -> None:
            link.close()
            await link.closed()

        stack.push_async_callback(close)
        return link

    return open_


@pytest.fixture
async def index(start_index: StartIndex) -> IndexServer:
    """An index with the default settings."""
    return await start_index()
