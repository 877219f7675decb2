"""Groups: work is shared, given again when it fails, given up in the end; a member and an owner, both real."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest

import pubsub
from tests.integration.client.conftest import NOBODY, make_topic
from tests.proxy import FaultyProxy
from tests.waiting import wait_until

PROMPT_SECONDS = 5.0
"""Much less than a lease: what comes within it did not wait for one."""


async def take(messages: pubsub.GroupSubscription, count: int) -> list[pubsub.GroupMessage]:
    async with asyncio.timeout(PROMPT_SECONDS):
        return [await anext(messages) for _ in range(count)]


async def done(client: pubsub.Client, group: str = "g") -> bool:
    return (await client.group("a.b", group)).lag == 0


# Sharing


async def test_each_message_goes_to_one_member_and_every_member_gets_some(peer: pubsub.Peer) -> None:
    count = 4000
    seen: dict[int, list[int]] = defaultdict(list)
    async with pubsub.Client(peer.address) as one, pubsub.Client(peer.address) as two:
        members = [client.subscribe("a.b", group="g") for client in (one, one, two, two)]

        def handler(number: int) -> object:
            async def handle(message: pubsub.GroupMessage) -> None:
                seen[number].append(message.offset)
                await asyncio.sleep(0)

            return handle

        for member in members:
            await member.open()
        running = [
            asyncio.create_task(member.run(handler(n), concurrency=10))  # type: ignore[arg-type]
            for n, member in enumerate(members)
        ]
        await peer.publish_many("a.b", [b"%d" % n for n in range(count)])
        await wait_until(lambda: done(one))
        for member in members:
            await member.close()
        await asyncio.gather(*running)
    assert sorted(offset for offsets in seen.values() for offset in offsets) == list(range(count))
    assert len(seen) == 4


async def test_groups_do_not_share_with_each_other(peer: pubsub.Peer) -> None:
    await peer.publish_many("a.b", [b"0", b"1"])
    for group in ("g", "h"):
        async with peer.subscribe("a.b", group=group) as messages:
            assert [message.payload for message in await take(messages, 2)] == [b"0", b"1"]


async def test_a_new_group_begins_where_it_is_told_and_then_goes_on(peer: pubsub.Peer) -> None:
    await peer.publish_many("a.b", [b"0", b"1"])
    async with peer.subscribe("a.b", group="g", start="latest") as messages:
        await peer.publish("a.b", b"2")
        (message,) = await take(messages, 1)
        assert message.payload == b"2"
        await message.ack()
    await peer.publish("a.b", b"3")
    async with peer.subscribe("a.b", group="g", start="earliest") as messages:
        (message,) = await take(messages, 1)
        assert message.payload == b"3"


async def test_no_more_than_max_in_flight_are_given_at_once(peer: pubsub.Peer) -> None:
    await peer.publish_many("a.b", [b"x"] * 10)
    async with peer.subscribe("a.b", group="g", max_in_flight=3) as messages:
        batch = await take(messages, 3)
        assert (await peer.group("a.b", "g")).in_flight == 3
        await batch[1].ack()
        assert [message.offset for message in await take(messages, 1)] == [3]
        assert (await peer.group("a.b", "g")).in_flight == 3


# Failing


async def test_a_nacked_message_comes_again_after_its_delay_with_its_attempt_counted(
    peer: pubsub.Peer,
) -> None:
    loop = asyncio.get_running_loop()
    await peer.publish("a.b", b"x", key="k", headers={"h": "v"})
    async with peer.subscribe("a.b", group="g", backoff_seconds=0.1) as messages:
        (message,) = await take(messages, 1)
        for attempt, (delay, least) in enumerate([(0, 0.0), (0.3, 0.3), (None, 0.4)], 1):
            assert (message.attempt, message.key, message.headers) == (attempt, "k", {"h": "v"})
            began = loop.time()
            await message.nack(delay)
            (message,) = await take(messages, 1)
            assert loop.time() - began >= least - 0.01  # the backoff doubles: 0.1, 0.2, 0.4
        assert message.attempt == 4


async def test_a_message_that_was_let_go_of_comes_again_when_its_lease_is_over(peer: pubsub.Peer) -> None:
    await peer.publish("a.b", b"x")
    async with peer.subscribe("a.b", group="g", lease_seconds=0.2, backoff_seconds=0) as messages:
        await take(messages, 1)
        (again,) = await take(messages, 1)
        assert again.attempt == 2
        await again.ack()


async def test_a_lease_is_extended_while_a_handler_runs(peer: pubsub.Peer) -> None:
    attempts: list[int] = []
    await peer.publish_many("a.b", [b"0", b"1"])
    async with peer.subscribe("a.b", group="g", lease_seconds=0.2) as messages:

        async def handle(message: pubsub.GroupMessage) -> None:
            attempts.append(message.attempt)
            await asyncio.sleep(0.7)  # the second waits for as long

        running = asyncio.create_task(messages.run(handle))
        await wait_until(lambda: done(peer))
        messages.stop()
        await running
    assert attempts == [1, 1]
    assert messages.late == 0


async def test_a_late_acknowledgement_is_told_and_does_nothing_to_the_new_delivery(peer: pubsub.Peer) -> None:
    await peer.publish("a.b", b"x")
    async with peer.subscribe("a.b", group="g", lease_seconds=0.2, backoff_seconds=0) as messages:
        (message,) = await take(messages, 1)
        messages._held.clear()  # as if this process had stood still
        (again,) = await take(messages, 1)
        assert again.attempt == 2
        with pytest.raises(
            pubsub.LateAcknowledgementError, match="attempt 1, was settled before, or its lease"
        ):
            await message.ack()
        with pytest.raises(pubsub.LateAcknowledgementError):
            await message.nack(0)
        assert (await peer.group("a.b", "g")).in_flight == 1
        await again.ack()
        with pytest.raises(pubsub.LateAcknowledgementError):  # it is settled
            await again.ack()
        assert (await peer.group("a.b", "g")).lag == 0


async def test_what_a_broken_connection_had_goes_to_another_member_at_once(peer: pubsub.Peer) -> None:
    await peer.publish_many("a.b", [b"0", b"1", b"2"])
    async with (
        FaultyProxy(*peer.address.split(":")) as proxy,
        pubsub.Client(peer.address) as first,
        pubsub.Client(peer.address) as second,
    ):
        own_address, peer._node.address = peer._node.address, proxy.address
        async with first.subscribe("a.b", group="g", backoff_seconds=0) as messages:
            held = await take(messages, 1)
            peer._node.address = own_address
            async with second.subscribe("a.b", group="g", max_in_flight=3) as others:
                proxy.swallow_answers = True  # it cannot join again
                proxy.cut()
                taken = await take(others, 3)
                assert [(message.offset, message.attempt) for message in taken] == [(0, 2), (1, 2), (2, 2)]
                await asyncio.gather(*(message.ack() for message in taken))
            proxy.swallow_answers = False
            with pytest.raises(pubsub.LateAcknowledgementError):
                await held[0].ack()


async def test_a_member_that_leaves_gives_back_what_it_has_not_begun_as_if_it_had_never_had_it(
    peer: pubsub.Peer,
) -> None:
    await peer.publish_many("a.b", [b"0", b"1", b"2"])
    async with peer.subscribe("a.b", group="g") as messages:
        (begun,) = await take(messages, 1)
        await wait_until(lambda: len(messages._waiting) == 2)
    assert not begun.settled
    async with peer.subscribe("a.b", group="g") as messages:
        taken = await take(messages, 3)
    assert sorted((message.offset, message.attempt) for message in taken) == [(0, 2), (1, 1), (2, 1)]


# Giving up


async def letters(client: pubsub.Client) -> list[pubsub.Message]:
    """The dead letters that are where they belong; on their way there they count as dead already."""
    try:
        return await client.query("a.b.dead")
    except pubsub.PubsubError:  # its topic is made for the first of them
        return []


async def test_after_the_last_attempt_a_message_is_a_dead_letter_that_says_where_it_comes_from(
    peer: pubsub.Peer,
) -> None:
    await peer.publish_many("a.b", [b"good", pubsub.NewMessage(b"bad", "k", {"h": "v"})])
    async with peer.subscribe("a.b", group="g", max_attempts=3, backoff_seconds=0) as messages:

        async def handle(message: pubsub.GroupMessage) -> None:
            if message.payload == b"bad":
                raise ValueError("it cannot be processed")

        running = asyncio.create_task(messages.run(handle))
        await wait_until(lambda: done(peer))
        messages.stop()
        await running
    assert (await peer.group("a.b", "g")).dead == 1
    (letter,) = await wait_until(lambda: letters(peer))
    assert (letter.payload, letter.key) == (b"bad", "k")
    assert letter.headers["h"] == "v"
    assert {name.removeprefix("pubsub-dead-"): value for name, value in letter.headers.items()}.items() >= {
        "topic": "a.b",
        "offset": "1",
        "group": "g",
        "reason": "nack",
        "attempts": "3",
    }.items()


async def test_dead_letters_are_given_again_when_they_are_redriven(peer: pubsub.Peer) -> None:
    await peer.publish_many("a.b", [b"0", b"1"])
    async with peer.subscribe("a.b", group="g", max_attempts=1) as messages:
        for message in await take(messages, 2):
            await message.nack()
        await wait_until(lambda: peer_dead(peer, 2))
        await peer.redrive_group("a.b", "g")
        again = await take(messages, 2)
        assert sorted((message.payload, message.attempt) for message in again) == [(b"0", 1), (b"1", 1)]
        await asyncio.gather(*(message.ack() for message in again))
    info = await peer.group("a.b", "g")
    assert (info.lag, info.dead) == (0, 0)
    assert await peer.query("a.b.dead") == []


async def peer_dead(client: pubsub.Client, count: int) -> bool:
    return (await client.group("a.b", "g")).dead == count


# Order


async def test_an_ordered_group_never_has_two_messages_of_a_key_in_flight_and_keeps_their_order(
    peer: pubsub.Peer,
) -> None:
    await peer.publish_many("a.b", [pubsub.NewMessage(b"%d" % n, f"k{n % 7}") for n in range(300)])
    running: set[str | None] = set()
    seen: dict[str | None, list[int]] = defaultdict(list)

    async def handle(message: pubsub.GroupMessage) -> None:
        assert message.key not in running
        running.add(message.key)
        await asyncio.sleep(0)
        running.discard(message.key)
        if message.offset % 10 == 0 and message.attempt == 1:
            raise ValueError("once more")
        seen[message.key].append(message.offset)

    async with pubsub.Client(peer.address) as client:
        members = [
            owner.subscribe("a.b", group="g", ordered=True, backoff_seconds=0) for owner in (client, peer)
        ]
        for member in members:
            await member.open()
        tasks = [asyncio.create_task(member.run(handle, concurrency=5)) for member in members]
        await wait_until(lambda: done(peer))
        for member in members:
            await member.close()
        await asyncio.gather(*tasks)
    assert {key: offsets for key, offsets in seen.items() if offsets != sorted(set(offsets))} == {}
    assert sum(map(len, seen.values())) == 300


# Restarts


async def test_an_owners_restart_keeps_what_was_acknowledged_and_gives_the_rest_again(tmp_path: Path) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        await peer.publish_many("a.b", [b"0", b"1", b"2"])
        host, port = peer.address.split(":")
        async with (
            pubsub.Client(peer.address) as client,
            client.subscribe("a.b", group="g", backoff_seconds=0) as messages,
        ):
            held = await take(messages, 3)
            await held[1].ack()
            await peer.close()
            async with pubsub.Peer(
                "alice", data=tmp_path / "a", index=NOBODY, listen=f"{host}:{port}"
            ) as again:
                given = await take(messages, 2)
                assert [(message.offset, message.attempt) for message in given] == [(0, 2), (2, 2)]
                with pytest.raises(pubsub.LateAcknowledgementError):
                    await held[0].ack()
                await asyncio.gather(*(message.ack() for message in given))
                assert (await again.group("a.b", "g")).lag == 0


# Verbs


async def hold(message: pubsub.GroupMessage) -> None:
    await asyncio.Event().wait()


async def test_a_group_is_listed_shown_peeked_reset_and_deleted(peer: pubsub.Peer) -> None:
    await peer.publish_many("a.b", [b"%d" % n for n in range(5)])
    async with pubsub.Client(peer.address, name="worker-1") as client:
        assert await client.groups("a.b") == []
        async with client.subscribe("a.b", group="g", max_in_flight=2, max_attempts=7) as messages:
            one, _ = await take(messages, 2)
            await one.nack(60)
            await take(messages, 1)
            info = await client.group("a.b", "g")
            assert [group.group for group in await client.groups("a.b")] == ["g"]
            counts = (info.ready, info.in_flight, info.delayed, info.dead, info.lag)
            assert counts == (2, 2, 1, 0, 5)
            assert info.options["max_attempts"] == 7
            assert len(info.members) == 1
            assert "worker-1" in info.members[0].values()
            assert [message.offset for message in await client.peek_group("a.b", "g")] == [3, 4]
            assert [message.offset for message in await client.peek_group("a.b", "g", limit=1)] == [3]
            await client.reset_group("a.b", "g", "earliest")
        async with client.subscribe("a.b", group="g", max_in_flight=2) as messages:
            await take(messages, 2)
        assert [message.offset for message in await client.peek_group("a.b", "g")] == [0, 1, 2, 3, 4]
        assert [message.offset for message in await client.peek_group("a.b", "g", limit=3)] == [0, 1, 2]
        await client.reset_group("a.b", "g", "latest")
        assert await done(client)
        await client.reset_group("a.b", "g", 1)
        assert (await client.group("a.b", "g")).ready == 4
        async with client.subscribe("a.b", group="g") as messages:
            assert (await take(messages, 1))[0].offset == 1
            await client.delete_group("a.b", "g")
            with pytest.raises(pubsub.GroupNotFoundError):
                await messages.run(hold)
        for verb in (client.group, client.peek_group, client.redrive_group, client.delete_group):
            with pytest.raises(pubsub.GroupNotFoundError, match="g"):
                await verb("a.b", "g")
        with pytest.raises(pubsub.GroupNotFoundError):
            await client.reset_group("a.b", "g", "earliest")


async def test_what_a_member_held_when_its_group_was_reset_can_only_be_settled_late(
    peer: pubsub.Peer,
) -> None:
    await peer.publish_many("a.b", [b"0", b"1"])
    async with peer.subscribe("a.b", group="g") as messages:
        (old,) = await take(messages, 1)
        await peer.reset_group("a.b", "g", "earliest")
        with pytest.raises(pubsub.LateAcknowledgementError):
            await old.ack()
        assert (await peer.group("a.b", "g")).lag == 2


async def test_a_group_of_a_topic_that_is_not_there_is_an_error(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address, timeout_seconds=0.5) as client:
        with pytest.raises((pubsub.TopicNotFoundError, pubsub.IndexUnavailableError)):
            await client.groups("nowhere")


async def test_deleting_the_topic_ends_its_members_with_an_error(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client, client.subscribe("a.b", group="g") as messages:
        await peer._node.drop_copy(peer._node.store.topics["a.b"].id)
        with pytest.raises(pubsub.TopicNotFoundError, match="deleted"):
            await anext(messages)


async def test_a_group_without_order_refuses_who_needs_it(peer: pubsub.Peer) -> None:
    await peer.publish("a.b", b"x")
    async with pubsub.Client(peer.address) as client:
        async with client.subscribe("a.b", group="g"):
            pass
        with pytest.raises(pubsub.InvalidRequestError, match="is not ordered"):
            async with client.subscribe("a.b", group="g", ordered=True):
                pass

        async def nobody() -> bool:
            return not (await client.group("a.b", "g")).members

        await wait_until(nobody)
        async with client.subscribe("a.b", group="h", ordered=True), client.subscribe("a.b", group="h"):
            pass
