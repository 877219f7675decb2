"""What a topic has besides messages goes with it: groups, cursors, held messages, ids, numbers of producers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pubsub
from tests.integration.peer.replicated import PATIENCE_SECONDS, Cluster, cluster
from tests.waiting import wait_until

THREE = ("alice", "bob", "carol")


async def replicated(site: Cluster) -> pubsub.Client:
    client = await site.client()
    await client.create_topic("t", on="alice", policy={"replicas": 3})
    await site.in_sync("t", *THREE)
    return client


async def test_a_group_goes_on_and_redelivers_only_what_was_not_acknowledged(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await client.publish_many("t", [b"%d" % n for n in range(20)])
        done: list[int] = []
        async with client.subscribe("t", group="g", lease_seconds=30) as messages:
            async for message in messages:
                if len(done) < 10:
                    await message.ack()
                    done.append(message.offset)
                if len(done) == 10:
                    break
        assert done == list(range(10))
        await site.kill("alice")
        again: list[int] = []
        async with client.subscribe("t", group="g") as messages:
            async for message in messages:
                again.append(message.offset)
                await message.ack()
                if len(again) == 10:
                    break
        assert sorted(again) == list(range(10, 20))
        (group,) = await client.groups("t")
        assert group.group == "g"


async def test_members_go_on_at_the_new_owner_while_messages_are_published(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        worker = await site.client()
        acknowledged: list[int] = []
        unsure: set[int] = set()
        """Was being acknowledged when the owner died: the copies had that by then, or it comes again."""

        async def work() -> None:
            async with worker.subscribe("t", group="g", lease_seconds=5) as messages:
                async for message in messages:
                    try:
                        await message.ack()
                    except pubsub.LateAcknowledgementError as late:
                        if late.data["fate_unknown"]:
                            unsure.add(message.offset)
                    else:
                        acknowledged.append(message.offset)

        working = asyncio.create_task(work(), name="worker")
        for number in range(50):
            await client.publish("t", b"%d" % number)
        await wait_until(lambda: len(acknowledged) >= 10)
        await site.kill("alice")
        for number in range(50, 100):
            await client.publish("t", b"%d" % number)
        await wait_until(lambda: {*acknowledged, *unsure} == set(range(100)), PATIENCE_SECONDS)
        working.cancel()
        assert len(unsure) <= 1, "it acknowledges one message at a time"
        assert len(acknowledged) == len(set(acknowledged))


async def test_held_messages_come_once_and_can_be_cancelled_at_the_new_owner(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        late = await client.publish("t", b"late", delay_seconds=3600)
        await client.publish("t", b"soon", delay_seconds=3)
        await client.publish("t", b"now", delay_seconds=0.01)
        await wait_until(lambda: site.held("alice", "t").committed == 1)
        await site.kill("alice")
        await wait_until(lambda: site.owner("t") in ("bob", "carol"), PATIENCE_SECONDS)

        async def both() -> bool:
            return [m.payload for m in await client.query("t", start=0, limit=10)] == [b"now", b"soon"]

        await wait_until(both, PATIENCE_SECONDS)
        held = await client.scheduled("t")
        assert [(message.schedule_id, message.payload) for message in held] == [(late, b"late")]
        await client.cancel_scheduled("t", late)


async def test_a_cancellation_waits_for_the_copies_and_what_is_due_does_not_wait_for_it(tmp_path: Path):
    async with cluster(tmp_path, *THREE, ttl_seconds=60) as site:
        client = await site.client()
        await client.create_topic("t", on="alice", policy={"replicas": 3, "replica_lag_seconds": 60})
        await client.create_topic("other", on="alice")
        await site.in_sync("t", *THREE)
        late = await client.publish("t", b"late", delay_seconds=3600)
        node = site.peers["alice"]._node
        owned = node.replicas.find(site.held("alice", "t"))
        assert owned is not None
        for feeding in owned.feedings.values():
            feeding._send_rows = lambda: None  # type: ignore[method-assign]
        cancelling = asyncio.create_task(client.cancel_scheduled("t", late))

        async def deleted_here() -> bool:
            return await node.store.held_ids(owned.topic, [late]) == []

        await wait_until(deleted_here, 8)
        await client.publish("other", b"due", delay_seconds=0.01)
        await wait_until(lambda: site.held("alice", "other").committed == 1, 8, "it has come")
        assert not cancelling.done()
        for feeding in list(owned.feedings.values()):
            del feeding._send_rows
            feeding.pump()
        await cancelling


async def test_ids_and_cursors_are_known_at_the_new_owner(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        assert await client.publish("t", b"a", message_id="one") == 0
        assert await client.publish("t", b"b", message_id="two") == 1
        async with client.subscribe("t", durable="d", start="earliest") as messages:
            message = await anext(messages)
            await messages.commit(message)
        await site.kill("alice")
        assert await client.publish("t", b"a", message_id="one") == 0
        assert await client.publish("t", b"c", message_id="three") == 2
        async with client.subscribe("t", durable="d", start="earliest") as messages:
            assert (await anext(messages)).offset == 1


async def test_a_copy_that_joins_later_is_given_everything(tmp_path: Path):
    async with cluster(tmp_path, "alice", "bob") as site:
        client = await site.client()
        await client.create_topic("t", on="alice", policy={"replicas": 2})
        await client.publish_many("t", [b"%d" % n for n in range(10)])
        async with client.subscribe("t", group="g") as messages:
            for _ in range(5):
                await (await anext(messages)).ack()
        await client.publish("t", b"x", message_id="x")
        await client.publish("t", b"y", delay_seconds=3600)
        await site.start("carol")
        await client.change_replicas("t", add=["carol"])
        await site.in_sync("t", *THREE)
        for name in ("alice", "bob"):
            await site.kill(name)
        await client.promote("t", "carol", accept_loss=True)
        await wait_until(lambda: site.owner("t") == "carol", PATIENCE_SECONDS)
        assert len(await client.scheduled("t")) == 1
        assert [group.group for group in await client.groups("t")] == ["g"]


async def test_what_a_group_gave_up_is_given_up_at_the_new_owner_too_and_can_be_redriven(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await give_up(client, 3)
        await site.kill("alice")
        await wait_until(lambda: dead_is(client, 3), PATIENCE_SECONDS)
        await client.publish("t", b"next")
        await wait_until(lambda: site.owner("t") != "alice")
        note = await client.redrive_group("t", "g")
        assert note == "3 dead letters of group g are ready again"
        assert await work_off(client, 4) == {b"0": 1, b"1": 1, b"2": 1, b"next": 1}
        assert await dead_is(client, 0)


async def test_the_new_owner_makes_letters_with_the_same_reason_once_the_name_is_free(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await given_up_and_moved(site, 1)
        await client.delete_topic("t.dead")

        async def made() -> bool:
            return [topic.owner for topic in await client.topics("t.dead")] == ["bob"]

        await wait_until(made, PATIENCE_SECONDS)
        (letter,) = await client.query("t.dead")
        assert letter.payload == b"0"
        assert letter.headers["pubsub-dead-reason"] == "nack"
        assert letter.headers["pubsub-dead-attempts"] == "1"
        assert await dead_is(client, 1)


async def test_a_reset_leaves_what_was_given_up_at_the_new_owner(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await given_up_and_moved(site, 3)
        await client.reset_group("t", "g", 2)
        assert await dead_is(client, 2)
        assert await work_off(client, 1) == {b"2": 1}


async def test_dead_letters_are_not_there_twice_when_their_owner_takes_over_again(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await given_up_and_moved(site, 3)
        assert (await client.group("t", "g")).lag == 0
        await client.promote("t", "alice")
        await wait_until(lambda: dead_is(client, 3), PATIENCE_SECONDS)
        assert [letter.payload for letter in await client.query("t.dead")] == [b"0", b"1", b"2"]
        assert await client.redrive_group("t", "g") == "3 dead letters of group g are ready again"
        assert await client.query("t.dead") == []
        assert await work_off(client, 3) == {b"0": 1, b"1": 1, b"2": 1}


async def test_what_was_redriven_elsewhere_is_no_dead_letter_any_more_where_it_was_one(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await given_up_and_moved(site, 3)
        await client.redrive_group("t", "g")
        assert await work_off(client, 3) == {b"0": 1, b"1": 1, b"2": 1}
        await client.promote("t", "alice")
        await wait_until(lambda: dead_is(client, 0), PATIENCE_SECONDS)
        assert await client.redrive_group("t", "g") == "0 dead letters of group g are ready again"


async def test_retention_of_dead_letters_waits_for_no_copy_of_the_topic_that_they_came_from(tmp_path: Path):
    async with cluster(tmp_path, *THREE) as site:
        client = await replicated(site)
        await give_up(client, 3)
        node = site.peers["alice"]._node
        for feeding in list(node.replicas.find(site.held("alice", "t")).feedings.values()):  # type: ignore[union-attr]
            feeding._send_rows = lambda: None  # type: ignore[method-assign]
        await client.set_policy("t.dead", max_messages=1)
        await wait_until(lambda: site.held("alice", "t.dead").first_offset == 2, 8)
        await wait_until(lambda: dead_is(client, 1), 8)


async def given_up_and_moved(site: Cluster, how_many: int) -> pubsub.Client:
    """A group has given messages up at alice, and bob owns the topic now, where they are given up, too."""
    client = await replicated(site)
    await give_up(client, how_many)
    await client.promote("t", "bob")
    await wait_until(lambda: dead_is(client, how_many), PATIENCE_SECONDS)
    return client


async def give_up(client: pubsub.Client, how_many: int) -> None:
    """Publish messages, and have a group give up each of them."""
    await client.publish_many("t", [b"%d" % number for number in range(how_many)])
    async with client.subscribe("t", group="g", max_attempts=1) as messages:
        for _ in range(how_many):
            await (await anext(messages)).nack()
    await wait_until(lambda: dead_is(client, how_many))

    async def are_letters() -> bool:
        return len(await client.topics("t.dead")) == 1 and len(await client.query("t.dead")) == how_many

    await wait_until(are_letters)


async def dead_is(client: pubsub.Client, how_many: int) -> bool:
    return (await client.group("t", "g")).dead == how_many


async def work_off(client: pubsub.Client, how_many: int) -> dict[bytes | None, int]:
    """Acknowledge messages of the group; returns their payloads and attempts."""
    found: dict[bytes | None, int] = {}
    async with client.subscribe("t", group="g") as messages:
        while len(found) < how_many:
            message = await anext(messages)
            found[message.payload] = message.attempt
            await message.ack()
    return found
