"""Groups over kills and restarts of their peer, and over a disk that cannot be written to."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

import pubsub
from pubsub.config import StorageSettings
from pubsub.errors import ReadOnlyError
from tests.integration.peer.grouping import (
    AT_ONCE,
    ENTRIES,
    Member,
    OpenMember,
    OpenPeer,
    dead_letter,
    figures,
    info,
    publish,
    rows,
)
from tests.waiting import wait_until


def killed(peer: pubsub.Peer, tmp_path: Path, number: int = 1) -> Path:
    """What a kill -9 of the peer at this moment would leave."""
    assert peer._store is not None
    left = tmp_path / f"killed-{number}"
    left.mkdir()
    for name in ("peer.db", "peer.db-wal"):
        shutil.copy(peer._store.path.with_name(name), left / name)
    return left


async def figures_are(peer: pubsub.Peer, wanted: tuple[int, int, int, int, int]) -> bool:
    return await figures(peer) == wanted


async def settled(member: Member, delivery: tuple[int, int]) -> bool:
    try:
        return await member.settle("ack", delivery) == []
    except ReadOnlyError:
        return False


# Restarts


async def test_after_a_kill_attempts_and_delays_are_as_they_were_and_an_old_ack_is_late(
    open_peer: OpenPeer, open_member: OpenMember, tmp_path: Path
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(3, options=AT_ONCE)
    await publish(peer, 5)
    await member.has((0, 1), (1, 1), (2, 1))
    await member.settle("ack", (0, 1))
    await member.settle("nack", (1, 1), delay_us=3_600_000_000)
    await wait_until(lambda: len(member.got) == 5)
    left = killed(peer, tmp_path)
    await peer.close()
    again = await open_peer(data=left)
    assert await figures(again) == (3, 0, 1, 0, 4)
    await wait_until(
        lambda: (
            [row[:3] for row in rows(again, ENTRIES)]
            == [
                (1, "delayed", 1),
                (2, "ready", 1),
                (3, "ready", 1),
                (4, "ready", 1),
            ]
        )
    )
    member = await (await open_member(again)).join()
    await member.has((2, 2), (3, 2), (4, 2))
    assert await member.settle("ack", (2, 1), (0, 1)) == [2, 0]
    assert await member.settle("ack", (2, 2), (3, 2), (4, 2)) == []
    assert await figures(again) == (0, 0, 1, 0, 1)


async def test_a_delay_that_ended_while_the_peer_was_away_has_ended(
    open_peer: OpenPeer, open_member: OpenMember, tmp_path: Path
):
    peer = await open_peer()
    member = await (await open_member(peer)).join()
    await publish(peer, 1)
    await member.has((0, 1))
    await member.settle("nack", (0, 1), delay_us=100_000)
    left = killed(peer, tmp_path)
    await peer.close()
    await asyncio.sleep(0.1)
    again = await open_peer(data=left)
    await wait_until(lambda: figures_are(again, (1, 0, 0, 0, 1)))
    await (await (await open_member(again)).join()).has((0, 2))


async def test_what_was_dying_when_the_peer_was_killed_becomes_a_dead_letter_afterwards(
    open_peer: OpenPeer, open_member: OpenMember, tmp_path: Path
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(options=AT_ONCE | {"max_attempts": 1})
    await publish(peer, 1)
    await member.has((0, 1))

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    peer._node.groups._by_topic[1]["g"].burying._bury = never
    await member.settle("nack", (0, 1))
    assert await figures(peer) == (0, 0, 0, 1, 0)
    left = killed(peer, tmp_path)
    again = await open_peer(data=left)
    assert (await dead_letter(again)).headers["pubsub-dead-reason"] == "nack"
    assert await figures(again) == (0, 0, 0, 1, 0)


async def test_an_orderly_restart_keeps_groups_too(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    member = await (await open_member(peer)).join(options={"ordered": True})
    await publish(peer, 3, keys=["k", "k", "l"])
    await member.has((0, 1), (2, 1))
    await peer.close()
    again = await open_peer()
    found = await info(again)
    assert found.options["ordered"]
    assert found.lag == 3
    member = await (await open_member(again)).join()
    await member.has((0, 2), (2, 2))
    await member.settle("ack", (0, 2))
    await member.has((0, 2), (2, 2), (1, 1))


# A disk that cannot be written to


async def test_what_could_not_be_stored_is_told_and_may_be_tried_again(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
):
    peer = await open_peer(storage_settings=StorageSettings(probe_seconds=0.05))
    store = peer._store
    assert store is not None
    member = await (await open_member(peer)).join(2)
    await publish(peer, 4)
    await member.has((0, 1), (1, 1))
    before = rows(peer, ENTRIES)
    full = True
    change = store.change

    def refuse(statements: Any, done: Any) -> None:
        if full:
            asyncio.get_running_loop().call_soon(done, ReadOnlyError("the disk is full"))
        else:
            change(statements, done)

    monkeypatch.setattr(store, "change", refuse)
    for how in ("ack", "nack", "ack"):  # the first fails with its commit, others may while rows are read anew
        with pytest.raises(ReadOnlyError):
            await member.settle(how, (0, 1))
    assert rows(peer, ENTRIES) == before
    assert (await info(peer)).in_flight == 2
    full = False
    await wait_until(lambda: settled(member, (0, 1)))
    await member.has((0, 1), (1, 1), (2, 1))  # nothing was given out twice
    assert await member.settle("ack", (1, 1), (2, 1)) == []
    await member.has((0, 1), (1, 1), (2, 1), (3, 1))
    assert await member.settle("ack", (3, 1)) == []
    assert await figures(peer) == (0, 0, 0, 0, 0)
    assert rows(peer, ENTRIES) == []


async def test_a_member_that_left_while_nothing_could_be_stored_has_given_back(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
):
    peer = await open_peer(storage_settings=StorageSettings(probe_seconds=0.05))
    store = peer._store
    assert store is not None
    member = await (await open_member(peer)).join()
    await publish(peer, 2)
    await member.has((0, 1), (1, 1))
    with monkeypatch.context() as patch:
        refuse = ReadOnlyError("the disk is full")
        patch.setattr(store, "change", lambda _, done: asyncio.get_running_loop().call_soon(done, refuse))
        with pytest.raises(ReadOnlyError):
            await member.settle("ack", (0, 1))
        await member.leave()
        other = await (await open_member(peer)).join()
    await other.has((0, 2), (1, 2))
