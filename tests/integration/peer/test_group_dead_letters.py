"""What groups gave up: dead letters, and making them ready again."""

from __future__ import annotations

import asyncio

import pytest

import pubsub
from tests.integration.peer.grouping import (
    AT_ONCE,
    ENTRIES,
    TOPIC,
    Member,
    OpenMember,
    OpenPeer,
    dead_letter,
    figures,
    has_dead,
    info,
    kill,
    publish,
    retain,
    rows,
)
from tests.integration.storage.stores import copy_of
from tests.waiting import wait_until


async def test_a_message_that_failed_too_often_becomes_a_dead_letter_that_says_why(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    member = await (await open_member(peer)).join(options=AT_ONCE | {"max_attempts": 2})
    await peer.publish(TOPIC, b"poison", key="k", headers={"unit": "C"})
    (original,) = await peer.query(TOPIC)
    await member.has((0, 1))
    await member.settle("nack", (0, 1))
    await member.has((0, 1), (0, 2))
    await member.settle("nack", (0, 2))
    letter = await dead_letter(peer)
    assert (letter.payload, letter.key) == (b"poison", "k")
    assert dict(letter.headers) == {
        "unit": "C",
        "pubsub-dead-topic": TOPIC,
        "pubsub-dead-offset": "0",
        "pubsub-dead-group": "g",
        "pubsub-dead-reason": "nack",
        "pubsub-dead-attempts": "2",
        "pubsub-dead-published-at": original.published_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    assert await figures(peer) == (0, 0, 0, 1, 0)
    assert rows(peer, ENTRIES) == []
    assert rows(peer, "SELECT source_topic_id, source_offset, group_name FROM dead_letters") == [(1, 0, "g")]
    assert peer._node.store.topics[f"{TOPIC}.dead"].owner == "alice"


async def test_lost_members_and_leases_kill_as_well(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer()
    await publish(peer, 1)
    stuck = await (await open_member(peer)).join(
        group="stuck", options={"max_attempts": 1, "lease_seconds": 0.1}
    )
    await stuck.has((0, 1))
    assert (await dead_letter(peer)).headers["pubsub-dead-reason"] == "lease expired"
    lost = await (await open_member(peer)).join(group="lost", options={"max_attempts": 1})
    await lost.has((0, 1))
    lost.link.abort()
    await wait_until(lambda: has_dead(peer, 2))
    letter = (await peer.query(f"{TOPIC}.dead"))[1]
    assert letter.headers["pubsub-dead-reason"] == "member lost"
    assert letter.headers["pubsub-dead-group"] == "lost"
    assert await figures(peer, group="stuck") == await figures(peer, group="lost") == (0, 0, 0, 1, 0)


async def test_a_group_of_dead_letters_never_gives_up(open_peer: OpenPeer, open_member: OpenMember):
    peer = await open_peer(TOPIC, f"{TOPIC}.dead")
    member = await (await open_member(peer)).join(
        topic=f"{TOPIC}.dead", options=AT_ONCE | {"max_attempts": 1}
    )
    await peer.publish(f"{TOPIC}.dead", b"x")
    for attempt in range(1, 4):
        await wait_until(lambda: (0, attempt) in member.got)  # noqa: B023
        await member.settle("nack", (0, attempt))
    assert set(peer._node.store.topics) == {TOPIC, f"{TOPIC}.dead"}


async def test_redriven_messages_are_ready_in_their_group_again_and_nowhere_else(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    await kill(peer, await open_member(peer), 3)
    note = await peer.redrive_group(TOPIC, "g")
    assert note == "3 dead letters of group g are ready again"
    assert await peer.query(f"{TOPIC}.dead") == []
    assert peer._node.store.topics[f"{TOPIC}.dead"].messages == 0
    assert await figures(peer) == (3, 0, 0, 0, 3)
    assert rows(peer, "SELECT messages, bytes FROM topics WHERE name = 'jobs.dead'") == [(0, 0)]
    assert rows(peer, "SELECT * FROM dead_letters") == []
    member = await (await open_member(peer)).join()
    await member.has((0, 1), (1, 1), (2, 1))
    assert len(await peer.query(TOPIC)) == 3
    assert await peer.redrive_group(TOPIC, "g") == "0 dead letters of group g are ready again"


async def test_a_dead_letter_whose_original_is_not_kept_is_published_anew(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    await kill(peer, await open_member(peer), 3)
    await retain(peer, 2)
    note = await peer.redrive_group(TOPIC, "g")
    assert note == (
        "1 dead letters of group g are ready again; 2 that the topic did not keep any more were published to it "
        "anew, for every reader"
    )
    member = await (await open_member(peer)).join()
    await member.has((2, 1), (3, 1), (4, 1))
    anew = (await peer.query(TOPIC))[1:]
    assert [message.headers["pubsub-redriven-from"] for message in anew] == ["jobs/0", "jobs/1"]
    assert [message.payload for message in anew] == [b"0", b"1"]
    assert await peer.query(f"{TOPIC}.dead") == []
    assert await figures(peer) == (0, 3, 0, 0, 3)


async def test_dead_letters_that_retention_took_are_counted_no_more(
    open_peer: OpenPeer, open_member: OpenMember
):
    peer = await open_peer()
    await kill(peer, await open_member(peer), 3)
    await retain(peer, 2, f"{TOPIC}.dead")
    assert (await info(peer)).dead == 1
    await peer._node.drop_copy(peer._node.store.topics[f"{TOPIC}.dead"].id)
    assert (await info(peer)).dead == 0


# While a dead letter topic is made


class Asking:
    """Making the dead letter topic of `jobs` goes as far as asking whether its name is free, and waits there."""

    def __init__(self, peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.free = asyncio.Event(), asyncio.Event()
        self._check_free = peer._node.dead_letters._check_free
        monkeypatch.setattr(peer._node.dead_letters, "_check_free", self._wait)

    async def _wait(self, name: str) -> None:
        if name == f"{TOPIC}.dead":
            self.begun.set()
            await self.free.wait()
        await self._check_free(name)


async def test_what_retention_takes_while_dead_letters_are_made_is_left_out_and_the_others_come(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
):
    peer = await open_peer()
    asking = Asking(peer, monkeypatch)
    await give_up(peer, await open_member(peer), 4)
    await asking.begun.wait()
    await retain(peer, 2)
    asking.free.set()
    await wait_until(lambda: f"{TOPIC}.dead" in peer._node.store.topics)
    await wait_until(lambda: has_dead(peer, 2))
    assert [letter.payload for letter in await peer.query(f"{TOPIC}.dead")] == [b"2", b"3"]
    assert rows(peer, "SELECT source_offset, reason FROM dead_letters") == [(2, "nack"), (3, "nack")]
    await wait_until(lambda: figures_are(peer, (0, 0, 0, 2, 0)))


async def test_dead_letters_of_one_topic_do_not_wait_until_that_of_another_is_made(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
):
    peer = await open_peer(TOPIC, "apples", "apples.dead", "pears")
    asking = Asking(peer, monkeypatch)
    await give_up(peer, await open_member(peer), 1)
    await asking.begun.wait()
    for topic in ("apples", "pears"):  # whether theirs is there or is to be made
        await give_up(peer, await open_member(peer), 1, topic)
        await dead_letter(peer, topic)
    asking.free.set()
    await dead_letter(peer)


async def test_a_dead_letter_topic_that_an_index_gave_to_this_peer_meanwhile_is_taken(
    open_peer: OpenPeer, open_member: OpenMember, monkeypatch: pytest.MonkeyPatch
):
    peer = await open_peer()
    asking = Asking(peer, monkeypatch)
    await give_up(peer, await open_member(peer), 1)
    await asking.begun.wait()
    await peer._node.holding.take(copy_of(9, f"{TOPIC}.dead"))
    asking.free.set()
    assert (await dead_letter(peer)).payload == b"0"
    assert rows(peer, "SELECT id FROM topics WHERE name = 'jobs.dead'") == [(9,)]


async def give_up(peer: pubsub.Peer, member: Member, how_many: int, topic: str = TOPIC) -> None:
    """Publish messages and fail to process each of them."""
    await member.join(topic=topic, options=AT_ONCE | {"max_attempts": 1})
    await peer.publish_many(topic, [b"%d" % n for n in range(how_many)])
    await member.has(*((n, 1) for n in range(how_many)))
    await member.settle("nack", *member.got)


async def figures_are(peer: pubsub.Peer, wanted: tuple[int, int, int, int, int]) -> bool:
    return await figures(peer) == wanted
