"""Flipped bytes in one peer's file: found, said, never chosen, and filled again; nothing of the topic is lost."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

import pubsub
from pubsub.config import PeerSettings
from pubsub.peer import scrubbing
from pubsub.storage.schema import PAGE_BYTES
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic
from tests.integration.peer.replicated import Cluster, cluster
from tests.integration.storage.stores import writer_held
from tests.waiting import wait_until

THREE = ("alice", "bob", "carol")
MESSAGES = [b"%06d" % n + b"x" * 50 for n in range(400)]


async def filled(site: Cluster, owner: str = "alice") -> pubsub.Client:
    """A topic on three peers with messages that all of them have."""
    client = await site.client()
    await client.create_topic("t", on=owner, policy={"replicas": 3, "replica_lag_seconds": 2})
    await site.in_sync("t", *THREE)
    for start in range(0, len(MESSAGES), 40):
        await client.publish_many("t", MESSAGES[start : start + 40])
    await site.equal("t")
    return client


def flip(path: Path, what: bytes) -> None:
    """Change a byte in the middle of a payload, in a file that nobody has open."""
    data = bytearray(path.read_bytes())
    data[data.index(what) + 1] ^= 0x55
    path.write_bytes(data)


async def test_a_damaged_copy_is_found_at_the_start_never_chosen_and_filled_again(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await filled(site)
        await site.stop("bob")
        await client.publish("t", b"meanwhile")
        flip(tmp_path / "bob" / "peer.db", b"000200xxx")
        await site.start("bob")
        (said,) = (await site.peers["bob"].status())["damage"]
        assert said.startswith("t at 200: the batch at offset 200 does not fit its checksum")
        await site.in_sync("t", *THREE)
        assert [row[4] for row in await site.equal("t")] == [*MESSAGES, b"meanwhile"]
        await wait_until(lambda: bool(site.held("bob", "t").sound), 15, "the owner's word")
        status = await site.peers["bob"].status()
        assert (status["refilled"], status["unsound"]) == (200, [])
        assert "whole again" in status["damage"][0]


async def test_an_owner_that_finds_damage_gives_the_topic_away_and_is_filled_again(tmp_path: Path):
    async with cluster(tmp_path, *THREE, ttl_seconds=6) as site:
        client = await filled(site)
        await site.kill("alice")
        flip(tmp_path / "alice" / "peer.db", b"000200xxx")
        await site.start("alice")  # before its deadline: nobody else has become the owner
        await wait_until(lambda: site.owner("t") in ("bob", "carol"), 15, "another owner")
        await site.in_sync("t", *THREE)
        await client.publish("t", b"afterwards", acks="all")
        assert [row[4] for row in await site.equal("t")] == [*MESSAGES, b"afterwards"]


async def test_a_damaged_copy_is_not_chosen_when_the_owner_goes(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await filled(site)
        await site.kill("bob")  # who stops leaves the copies that are in sync
        await site.kill("carol")
        flip(tmp_path / "bob" / "peer.db", b"000200xxx")
        await asyncio.gather(site.start("bob"), site.start("carol"))
        await site.kill("alice")
        await wait_until(lambda: site.owner("t") in ("bob", "carol"), 20, "another owner")
        assert site.owner("t") == "carol" or site.held("bob", "t").sound
        read = [message.payload async for message in read_all(client)]
        assert read == MESSAGES


async def read_all(client: pubsub.Client):  # type: ignore[no-untyped-def]
    async with client.subscribe("t", start="earliest") as messages:
        async for message in messages:
            yield message
            if message.offset == len(MESSAGES) - 1:
                return


async def test_damage_of_a_topic_without_other_copies_is_said_and_the_rest_is_served(tmp_path: Path):
    async with cluster(tmp_path, "alice") as site:
        client = await site.client()
        await client.create_topic("t", on="alice")
        await client.publish_many("t", MESSAGES)
        await site.stop("alice")
        flip(tmp_path / "alice" / "peer.db", b"000200xxx")
        await site.start("alice")
        peer = site.peers["alice"]
        await wait_until(lambda: peer._node.scrubbing.damage, 15, "the scrub")
        (said,) = (await peer.status())["damage"]
        assert "no other peer has a copy" in said
        assert len([m async for m in read_all(client)]) == len(MESSAGES)


async def test_a_file_that_cannot_be_opened_is_set_aside_when_told_and_the_peer_says_so(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await filled(site)
        await site.stop("bob")
        await client.publish("t", b"meanwhile")
        path = tmp_path / "bob" / "peer.db"
        path.write_bytes(b"garbage!" * 8 + path.read_bytes()[64:])
        with pytest.raises(pubsub.DamagedFileError, match="--set-damaged-aside"):
            await site.start("bob")
        await site.start("bob", set_damaged_aside=True)
        (kept,) = (await site.peers["bob"].status())["files_aside"]
        assert (tmp_path / "bob" / kept).read_bytes().startswith(b"garbage!")
        await site.in_sync("t", *THREE)
        assert [row[4] for row in await site.equal("t")] == [*MESSAGES, b"meanwhile"]


async def test_a_file_with_a_bad_page_of_which_others_have_all_is_set_aside_by_itself(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        await filled(site)
        incarnation = (await site.peers["bob"].status())["incarnation"]
        await site.kill("bob")
        path = tmp_path / "bob" / "peer.db"
        data = bytearray(path.read_bytes())
        page = data.index(b"000200xxx") // PAGE_BYTES * PAGE_BYTES
        data[page : page + PAGE_BYTES] = bytes(PAGE_BYTES)
        path.write_bytes(data)
        await site.start("bob")  # at once: it is known to be the same
        status = await site.peers["bob"].status()
        assert len(status["files_aside"]) == 1
        assert status["incarnation"].partition(".")[0] == incarnation.partition(".")[0]
        await site.in_sync("t", *THREE)
        assert [row[4] for row in await site.equal("t")] == MESSAGES


async def test_a_damaged_write_ahead_log_of_an_owner_costs_nothing(tmp_path: Path):
    async with cluster(tmp_path, *THREE, ttl_seconds=6) as site:
        await filled(site)
        files = {
            suffix: (tmp_path / "alice" / f"peer.db{suffix}").read_bytes() for suffix in ("", "-wal", "-shm")
        }
        await site.kill("alice")
        wal = bytearray(files["-wal"])
        wal[wal.index(b"000200xxx") + 1] ^= 0x55
        for suffix, data in (files | {"-wal": bytes(wal)}).items():  # as a crash would have left it
            (tmp_path / "alice" / f"peer.db{suffix}").write_bytes(data)
        (tmp_path / "alice" / "peer.db-shm").unlink()
        await site.start("alice")
        assert (await site.peers["alice"].status())["files_aside"]
        await wait_until(lambda: site.owner("t") in ("bob", "carol"), 20, "another owner")
        await site.in_sync("t", *THREE)
        assert [row[4] for row in await site.equal("t")] == MESSAGES


async def test_a_page_that_goes_bad_beneath_an_owner_costs_nothing(tmp_path: Path):
    async with cluster(tmp_path, *THREE, ttl_seconds=6) as site:
        client = await filled(site)
        node = site.peers["alice"]._node
        node.store.on_damage(node.store.topics["t"], 200, "cannot read it")  # as a reader would
        await wait_until(lambda: site.owner("t") in ("bob", "carol"), 15, "another owner")
        await site.in_sync("t", *THREE)
        assert [row[4] for row in await site.equal("t")] == MESSAGES
        assert len([m async for m in read_all(client)]) == len(MESSAGES)


async def test_the_owner_of_a_file_that_cannot_be_opened_comes_back_as_a_replica(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        await filled(site)
        await site.kill("alice")
        path = tmp_path / "alice" / "peer.db"
        path.write_bytes(b"garbage!" * 8 + path.read_bytes()[64:])
        await wait_until(lambda: site.owner("t") in ("bob", "carol"), 20, "another owner")
        await site.start("alice", set_damaged_aside=True)
        await site.in_sync("t", *THREE)
        assert [row[4] for row in await site.equal("t")] == MESSAGES


async def test_messages_that_are_missing_are_found_by_comparing_with_the_owner(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await filled(site)
        for _ in range(3):
            await client.publish_many("t", MESSAGES)
        await site.equal("t")
        await site.stop("bob")
        with contextlib.closing(sqlite3.connect(tmp_path / "bob" / "peer.db")) as connection:
            connection.execute("DELETE FROM messages WHERE offset BETWEEN 200 AND 250")
            connection.commit()
        await site.start("bob", peer_settings=PeerSettings(scrub_seconds=1))
        scrubbing = site.peers["bob"]._node.scrubbing
        await wait_until(lambda: scrubbing.refilled > 0, 20, "found missing")
        (said,) = (await site.peers["bob"].status())["damage"]
        assert "51 messages are missing below offset 1000" in said
        await site.in_sync("t", *THREE)
        assert len(await site.equal("t")) == 4 * len(MESSAGES)


async def test_verify_says_for_each_range_of_each_copy_whether_it_is_equal(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await filled(site)
        found = await client.verify("t")
        assert [(part.peer, part.start, part.stop, part.equal) for part in found] == [
            (peer, 0, len(MESSAGES), True) for peer in THREE
        ]
        assert len({part.digest for part in found}) == 1
        path = site.peers["carol"]._node.store.path
        with contextlib.closing(sqlite3.connect(path)) as connection:  # no checksum tells of that
            connection.execute("UPDATE messages SET batch = NULL, payload = x'00' WHERE offset = 200")
            connection.commit()
        carol = {part.peer: part for part in await client.verify("t")}["carol"]
        assert (carol.equal, carol.problem, carol.sound) == (False, "", False)
        await site.stop("bob")
        bob = next(part for part in await client.verify("t") if part.peer == "bob")
        assert (bob.problem, bob.sound) == ("its peer is away", False)


async def test_a_copy_whose_file_has_rows_behind_its_end_is_set_aside_and_the_others_go_on(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await filled(site)
        store = site.peers["carol"]._node.store
        topic = store.topics["t"]
        with contextlib.closing(sqlite3.connect(store.path)) as connection:
            connection.execute(
                "INSERT INTO messages (topic_id, offset, published_at, payload) VALUES (?, ?, 1, x'00')",
                (topic.id, topic.next_offset + 1),
            )
            connection.commit()
        assert await client.publish_many("t", [b"x"] * 5) == list(range(len(MESSAGES), len(MESSAGES) + 5))
        await wait_until(lambda: "t" not in store.topics, 20, "carol's copy is set aside")
        assert "--set-damaged-aside" in str(topic.set_aside)
        assert site.held("bob", "t").next_offset == len(MESSAGES) + 5


async def test_verify_finds_damage_that_is_then_mended(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await filled(site)
        path = site.peers["carol"]._node.store.path
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE messages SET payload = x'00' WHERE offset = 200")
            connection.commit()
        carol = next(p for p in await client.verify("t") if p.peer == "carol" and p.stop == len(MESSAGES))
        assert not carol.sound
        assert "does not fit its checksum" in carol.problem

        async def whole() -> bool:
            return all(part.sound for part in await client.verify("t"))

        await wait_until(whole, 20, "all copies equal again")


async def test_damage_is_mended_though_whoever_found_it_goes_away(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        await filled(site)
        node = site.peers["carol"]._node
        async with writer_held(node.store):
            finding = asyncio.create_task(node.scrubbing.found(node.store.topics["t"], 200, "cannot read it"))
            await wait_until(lambda: node.scrubbing.damage)
            finding.cancel()
            await asyncio.wait([finding])
        await wait_until(lambda: node.scrubbing.refilled == 200, 15, "taken back")
        await site.in_sync("t", *THREE)
        assert [row[4] for row in await site.equal("t")] == MESSAGES


async def test_damage_that_is_found_while_a_copy_is_taken_back_is_mended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with cluster(tmp_path, *THREE) as site:
        await filled(site)
        node = site.peers["carol"]._node
        take_back = scrubbing.take_back

        async def take_back_and_find_more(store: Store, topic: Topic, offset: int) -> int:
            removed = await take_back(store, topic, offset)
            if offset == 200:
                await node.scrubbing.found(topic, 100, "cannot read it either")
            return removed

        monkeypatch.setattr(scrubbing, "take_back", take_back_and_find_more)
        topic = node.store.topics["t"]
        await node.scrubbing.found(topic, 200, "cannot read it")
        state = "taken back to offset 100"
        await wait_until(lambda: node.scrubbing.damage[topic.id].state.startswith(state), 15, state)
        await site.in_sync("t", *THREE)
        assert [row[4] for row in await site.equal("t")] == MESSAGES
