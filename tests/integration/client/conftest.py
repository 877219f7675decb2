"""A peer in this process that needs no index: a client may be given its address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

import pubsub
from pubsub.peer import schedule
from pubsub.protocol.messages import CopyState
from tests.integration.client.scheduling import Clock

NOBODY = "127.0.0.1:1"
"""An index address at which nothing answers."""

_ids = count(1)


async def make_topic(peer: pubsub.Peer, name: str) -> None:
    """Have the peer own a topic, as if an index had said so."""
    await peer._node.holding.take(
        CopyState(id=next(_ids), topic=name, role="owner", owner=peer.name, epoch=1, created_us=1)
    )


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[pubsub.Peer]:
    async with pubsub.Peer("alice", data=tmp_path / "alice", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        yield peer


@pytest.fixture
async def client(peer: pubsub.Peer) -> AsyncIterator[pubsub.Client]:
    async with pubsub.Client(peer.address) as client:
        yield client


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the schedules of this process take for the time."""
    clock = Clock()
    monkeypatch.setattr(schedule, "now_us", clock)
    monkeypatch.setattr(schedule, "LOOK_SECONDS", 0.02)
    return clock
