"""A peer that cannot be opened, or whose opening is given up, leaves nothing behind: another may have its place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import pubsub
from pubsub.peer.scrubbing import Scrubbing


@pytest.fixture
def peer(tmp_path: Path, free_port: int) -> pubsub.Peer:
    """Not opened yet."""
    return pubsub.Peer("alice", data=tmp_path, index="127.0.0.1:1", listen=f"127.0.0.1:{free_port}")


async def successor_opens(peer: pubsub.Peer) -> None:
    """Another one takes the same data directory and listens at the same address."""
    async with pubsub.Peer(
        "alice", data=peer._data, index="127.0.0.1:1", listen=str(peer._listen)
    ) as successor:
        assert (await successor.status())["topics"] == 0


async def test_an_open_that_fails_while_its_copies_are_looked_at(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise pubsub.DamagedFileError("it cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(Scrubbing, "check_at_start", fail)
        with pytest.raises(pubsub.DamagedFileError, match="it cannot be read"):
            async with peer:
                pass
    await successor_opens(peer)


async def test_an_open_that_is_cancelled_while_its_copies_are_looked_at(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = asyncio.Event()

    async def look(*_: object) -> None:
        looking.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(Scrubbing, "check_at_start", look)
        opening = asyncio.create_task(peer.open(), name="open")
        await looking.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await successor_opens(peer)


@pytest.mark.parametrize("looked_at", [False, True])
async def test_an_open_during_which_the_peer_is_closed(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch, looked_at: bool
) -> None:
    looking, go = asyncio.Event(), asyncio.Event()

    async def look(*_: object) -> None:
        looking.set()
        await go.wait()

    with monkeypatch.context() as patched:
        patched.setattr(Scrubbing, "check_at_start", look)
        opening = asyncio.create_task(peer.open(), name="open")
        if looked_at:
            await looking.wait()
        else:
            await asyncio.sleep(0)  # lets it begin
        await peer.close()
        go.set()
        with pytest.raises(pubsub.ClosedError, match="make a new one"):
            await opening
    await successor_opens(peer)
