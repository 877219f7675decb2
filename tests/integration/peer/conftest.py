"""A peer without an index, links to it, and members of its groups; all end with the test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import pubsub
from pubsub.config import Limits
from pubsub.model import parse_address
from pubsub.net.link import Link, connect
from pubsub.protocol.handshake import hello
from tests.integration.peer.grouping import TOPIC, Member, OpenMember, OpenPeer
from tests.integration.peer.tapping import OpenLink
from tests.integration.storage.stores import copy_of


@pytest_asyncio.fixture
async def open_peer(tmp_path: Path) -> AsyncIterator[OpenPeer]:
    """Opens the peer alice, without an index, with the topics given: names, their ids counted from 1."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_it(*topics: str, data: Path | None = None, **settings: Any) -> pubsub.Peer:
            peer = pubsub.Peer("alice", data=data or tmp_path / "alice", index="127.0.0.1:1", **settings)
            await stack.enter_async_context(peer)
            for topic_id, name in enumerate(topics or (TOPIC,), 1):
                await peer._node.holding.take(copy_of(topic_id, name))
            return peer

        yield open_it


@pytest_asyncio.fixture
async def open_link() -> AsyncIterator[OpenLink]:
    """Opens raw links to a peer; all are gone at the end."""
    links: list[Link] = []

    async def open_it(peer: pubsub.Peer) -> Link:
        link = await connect(parse_address(peer.address), hello("client", "test"), Limits())
        links.append(link)
        return link

    yield open_it
    for link in links:
        link.abort()
        await link.closed()


@pytest.fixture
def open_member(open_link: OpenLink) -> OpenMember:
    """Connects members to a peer, each on a connection of its own."""

    async def open_it(peer: pubsub.Peer) -> Member:
        return Member(await open_link(peer))

    return open_it
