"""Owners that vanish, leave, or come back: another copy goes on, and nothing that was committed is lost or doubled."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pubsub
from pubsub.config import IndexSettings
from pubsub.errors import IndexUnavailableError, NotOwnerError, SequenceError
from pubsub.index import IndexServer
from pubsub.protocol.messages import Publish
from pubsub.registry import EmbeddedRegistry
from tests.integration.peer.replicated import PATIENCE_SECONDS, Cluster, cluster
from tests.stopwatch import Stopwatch
from tests.waiting import wait_until

THREE = ("alice", "bob", "carol")


async def replicated(site: Cluster, owner: str = "alice") -> pubsub.Client:
    client = await site.client()
    await client.create_topic("t", on=owner, policy={"replicas": 3})
    await site.in_sync("t", *THREE)
    return client


async def test_another_copy_goes_on_when_the_owner_vanishes_and_nothing_is_lost_or_doubled(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        read: list[bytes | None] = []

        async def subscribe() -> None:
            async with client.subscribe("t", start="earliest") as messages:
                async for message in messages:
                    read.append(message.payload)
                    assert message.offset == len(read) - 1

        reading = asyncio.create_task(subscribe(), name="reader")
        published: list[bytes] = []

        async def publish() -> None:
            for number in range(1000):
                await client.publish("t", b"%d" % number)
                published.append(b"%d" % number)

        publishing = asyncio.create_task(publish(), name="publisher")
        await wait_until(lambda: len(published) > 100)
        await site.kill("alice")
        await asyncio.wait_for(publishing, PATIENCE_SECONDS)
        await wait_until(lambda: len(read) == 1000, PATIENCE_SECONDS)
        assert read == published
        reading.cancel()
        assert site.owner("t") in ("bob", "carol")
        await site.in_sync("t", "bob", "carol")
        rows = await site.equal("t")
        assert [row[4] for row in rows] == published


async def test_a_peer_that_stops_hands_its_topics_over_within_a_second(tmp_path: Path):
    await longest_pause_while_one_stops(tmp_path, "alice")


async def test_a_follower_that_stops_is_not_waited_for(tmp_path: Path):
    await longest_pause_while_one_stops(tmp_path, "bob")


async def longest_pause_while_one_stops(tmp_path: Path, name: str) -> None:
    """Publish to three copies, one awaited at a time, while a peer stops; see that nothing takes long, or is lost."""
    async with cluster(tmp_path, *THREE, ttl_seconds=6) as site:
        client = await replicated(site)
        longest = 0.0
        count = 0
        stop = asyncio.Event()

        async def publish() -> None:
            nonlocal longest, count
            while not stop.is_set():
                watch = Stopwatch()
                assert await client.publish("t", b"%d" % count) == count
                longest = max(longest, watch.seconds)
                count += 1

        publishing = asyncio.create_task(publish(), name="publisher")
        await wait_until(lambda: count > 50)
        await site.stop(name)
        before = count
        await wait_until(lambda: count > before + 50, PATIENCE_SECONDS)
        stop.set()
        await publishing
        assert longest < 5.0  # within a second; the machine may be busy with other tests
        rows = await site.equal("t")
        assert [row[4] for row in rows] == [b"%d" % number for number in range(count)]


async def test_an_owner_that_is_about_to_stop_does_not_join_the_copies_of_its_successor(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await client.publish("t", b"before")
        alice = site.peers["alice"]._node
        alice.following.leave()
        await alice.handing_over.hand_over_all(5)
        await wait_until(lambda: site.held("alice", "t").role == "replica")
        await client.publish_many("t", [b"after"] * 5)
        assert site.held(site.owner("t"), "t").in_sync == ["bob", "carol"]
        assert site.held("alice", "t").next_offset == 1


async def test_an_owner_that_comes_back_follows_and_what_it_alone_had_is_kept_as_orphans(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await client.publish_many("t", [b"a", b"b"])
        await site.equal("t")
        node = site.peers["alice"]._node
        for feeding in list(node.replicas.find(site.held("alice", "t")).feedings.values()):  # type: ignore[union-attr]
            feeding.pump = lambda: None  # type: ignore[method-assign]
        publishing = asyncio.create_task(client.publish("t", b"c"), name="publisher")
        await wait_until(lambda: site.held("alice", "t").next_offset == 3)
        assert site.held("alice", "t").committed == 2
        await site.kill("alice")
        assert await asyncio.wait_for(publishing, PATIENCE_SECONDS) == 2  # sent again, to the next owner
        assert await client.publish("t", b"d") == 3
        await site.start("alice")
        await site.in_sync("t", *THREE)
        rows = await site.equal("t")
        assert [row[4] for row in rows] == [b"a", b"b", b"c", b"d"]
        orphaned = await site.peers["alice"]._node.store.look(
            lambda c: c.exec_driver_sql("SELECT offset, payload FROM orphaned_messages").all()
        )
        assert [tuple(row) for row in orphaned] == [(2, b"c")]


async def test_two_owners_in_a_row_vanish_and_return(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await client.publish_many("t", [b"%d" % n for n in range(100)])
        for _ in range(2):
            owner = site.owner("t")
            await site.kill(owner)
            await client.publish_many("t", [b"x"] * 10)
            await site.start(owner)
            await site.in_sync("t", *THREE)
        rows = await site.equal("t")
        assert len(rows) == 120
        epochs = [site.held(name, "t").epochs for name in THREE]
        assert epochs[0] == epochs[1] == epochs[2]
        assert len(epochs[0]) >= 3


async def test_publishing_is_refused_with_too_few_copies_and_goes_on_when_they_are_back(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        topic = site.held("alice", "t")
        await site.peers["alice"].set_policy("t", replica_lag="1s")
        await site.kill("bob")
        await site.in_sync("t", "alice", "carol")
        assert await client.publish("t", b"a") == 0
        await site.kill("carol")
        await site.in_sync("t", "alice")
        publishing = asyncio.create_task(client.publish("t", b"b"), name="publisher")
        await asyncio.sleep(0.5)
        assert not publishing.done()
        assert topic.committed == 1
        await site.start("carol")
        assert await asyncio.wait_for(publishing, PATIENCE_SECONDS) == 1


async def test_a_copy_whose_disk_was_lost_counts_for_nothing_until_it_has_everything_again(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await client.publish_many("t", [b"%d" % n for n in range(200)])
        await site.equal("t")
        await site.kill("bob")
        shutil.rmtree(tmp_path / "bob")

        async def gone() -> bool:
            return not next(p.alive for p in await client.peers() if p.peer == "bob")

        await wait_until(gone)
        await site.start("bob")
        await wait_until(lambda: "t" in site.peers["bob"]._node.store.topics)
        if "bob" in site.held("bob", "t").in_sync:  # it is said to have what it has lost
            assert not site.held("bob", "t").sound
        await wait_until(lambda: site.held("bob", "t").sound == 1, PATIENCE_SECONDS)
        await site.in_sync("t", *THREE)
        assert len(await site.equal("t")) == 200
        await client.publish("t", b"x")


async def test_a_stopped_owner_that_knows_too_little_does_not_say_out_of_order(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await client.publish("t", b"a")
        node = site.peers["alice"]._node
        topic = site.held("alice", "t")
        answers: list[object] = []
        frame = Publish(1, "t", topic.id, 77, 5, None, None, [b"x"])
        node.publishing.publish(frame, answers.append)
        (error,) = await wait_until(lambda: answers)
        assert isinstance(error, SequenceError)  # it is the owner: the index says so
        propose = node.proposing.propose

        async def nobody(*_: object, **__: object) -> bool:
            raise IndexUnavailableError("no index")

        node.proposing.propose = nobody  # type: ignore[method-assign, assignment]
        answers.clear()
        for feeding in list(node.replicas.find(topic).feedings.values()):  # type: ignore[union-attr]
            feeding.connection.hold_reading("test")
        node.publishing.publish(frame, answers.append)
        (error,) = await wait_until(lambda: answers)
        assert isinstance(error, NotOwnerError)
        node.proposing.propose = propose  # type: ignore[method-assign]


async def test_an_owner_that_is_back_before_its_deadline_goes_on_in_its_epoch(tmp_path: Path):
    async with cluster(tmp_path, *THREE, ttl_seconds=6) as site:
        client = await replicated(site)
        await client.publish_many("t", [b"%d" % n for n in range(100)])
        for name in ("alice", "bob"):
            await site.kill(name)
            await site.start(name)
            assert await client.publish("t", name.encode()) >= 100
        await site.in_sync("t", *THREE)
        assert len(await site.equal("t")) == 102
        assert {site.held(name, "t").epoch for name in THREE} == {1}


async def test_all_peers_are_started_again_at_once(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await client.publish_many("t", [b"%d" % n for n in range(100)])
        for name in THREE:
            await site.kill(name)
        await site.start(*THREE)
        assert await client.publish("t", b"x") == 100
        await site.in_sync("t", *THREE)
        assert len(await site.equal("t")) == 101


async def test_an_index_that_has_forgotten_everything_stops_no_commit_and_makes_newer_epochs(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await client.publish_many("t", [b"%d" % n for n in range(100)])
        epoch = site.held("alice", "t").epoch
        listen = site.index.address
        assert listen is not None
        await site.index.close()
        assert await client.publish("t", b"without an index") == 100
        index = IndexServer(
            EmbeddedRegistry("127.0.0.1:0"), listen=listen, settings=IndexSettings(ttl_seconds=1)
        )
        async with index:
            site.index = index
            await wait_until(
                lambda: site.owner("t") and site.held(site.owner("t"), "t").epoch > epoch, PATIENCE_SECONDS
            )
            await site.in_sync("t", *THREE)
            assert await client.publish("t", b"x") == 101
            await site.kill(site.owner("t"))
            assert await client.publish("t", b"y") == 102
            assert len(await site.equal("t")) == 103
