"""Readers that retention overtakes: an error, or a jump that is told; never a silent skip.

Retention is played by hand: rows go and `first_offset` rises in one transaction, and memory learns it afterwards.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

import pubsub
from pubsub.config import ClientSettings
from tests.waiting import wait_until


async def retain(peer: pubsub.Peer, first_offset: int, *, memory_knows: bool = True) -> None:
    topic = peer._node.store.topics["a.b"]

    def change(connection: object) -> None:
        for sql in (
            "DELETE FROM messages WHERE topic_id = ? AND offset < ?",
            "UPDATE topics SET first_offset = max(first_offset, ?2) WHERE id = ?1",
        ):
            connection.exec_driver_sql(sql, (topic.id, first_offset)).close()  # type: ignore[attr-defined]

    await peer._node.store.change_file(change)
    if memory_knows:
        topic.first_offset = first_offset


async def test_a_start_that_was_taken_away_is_an_error_that_says_what_is_kept(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 10)
        await retain(peer, 4)
        with pytest.raises(pubsub.OffsetOutOfRangeError, match="keeps 4 to 9") as caught:
            async with client.subscribe("a.b", start=3):
                pass
        assert caught.value.data == {"first_offset": 4, "next_offset": 10}
        async with client.subscribe("a.b", start=4) as messages:
            assert (await anext(messages)).offset == 4
            assert messages.skipped == 0


async def test_with_skip_it_begins_at_the_first_kept_message_and_says_so(
    peer: pubsub.Peer, caplog: pytest.LogCaptureFixture
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 10)
        await retain(peer, 4)
        async with client.subscribe("a.b", start=1, on_lost="skip") as messages:
            assert messages.skipped == 3
            assert (await anext(messages)).offset == 4
        assert "took 3 messages of topic a.b away" in caplog.text
        with pytest.raises(pubsub.OffsetOutOfRangeError):  # beyond the end there is nothing to skip to
            async with client.subscribe("a.b", start=11, on_lost="skip"):
                pass


async def test_earliest_and_a_time_lose_nothing(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 10)
        first = (await client.query("a.b"))[0].published_at
        await retain(peer, 4)
        for start in ("earliest", first):
            async with client.subscribe("a.b", start=start, on_lost="skip") as messages:
                assert (await anext(messages)).offset == 4
                assert messages.skipped == 0


async def test_a_durable_subscription_that_was_away_too_long_gets_the_error_or_the_count(
    peer: pubsub.Peer,
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 10)
        async with client.subscribe("a.b", durable="dash", start=2):
            pass
        await retain(peer, 6)
        with pytest.raises(pubsub.OffsetOutOfRangeError):
            async with client.subscribe("a.b", durable="dash"):
                pass
        assert (await client.subscription("a.b", "dash")).position == 2  # and stays for a person to decide
        async with client.subscribe("a.b", durable="dash", on_lost="skip") as messages:
            assert messages.skipped == 4
            assert (await anext(messages)).offset == 6
            await messages.commit()
        async with client.subscribe("a.b", durable="dash") as messages:
            assert (await anext(messages)).offset == 7


@pytest.mark.parametrize("memory_knows", [True, False])
async def test_a_slow_reader_that_is_overtaken_gets_the_error_after_what_it_had_received(
    peer: pubsub.Peer, memory_knows: bool
) -> None:
    async with pubsub.Client(peer.address, settings=ClientSettings(window_messages=10)) as client:
        await peer.publish_many("a.b", [b"x"] * 100)
        async with client.subscribe("a.b", start="earliest") as messages:
            await wait_until(lambda: messages.position == 10)
            await retain(peer, 50, memory_knows=memory_knows)
            seen = []
            with pytest.raises(pubsub.OffsetOutOfRangeError, match="offsets 10 to 49") as caught:
                await read_into(seen, messages)
            assert seen == list(range(10))
            assert caught.value.data["first_offset"] == 50


async def read_into(seen: list[int], messages: pubsub.Subscription, until: int = -1) -> None:
    async with asyncio.timeout(20):
        async for message in messages:
            seen.append(message.offset)
            if message.offset == until:
                return


async def test_a_slow_reader_that_skips_goes_on_at_the_first_kept_message_and_counts(
    peer: pubsub.Peer, caplog: pytest.LogCaptureFixture
) -> None:
    async with pubsub.Client(peer.address, settings=ClientSettings(window_messages=10)) as client:
        await peer.publish_many("a.b", [b"x"] * 100)
        async with client.subscribe("a.b", start="earliest", on_lost="skip") as messages:
            await wait_until(lambda: messages.position == 10)
            await retain(peer, 50)
            seen: list[int] = []
            await read_into(seen, messages, 59)
            await retain(peer, 90)
            await read_into(seen, messages, 99)
    lost = [record for record in caplog.records if "retention took" in record.message]
    assert all(record.levelno == logging.WARNING for record in lost)
    assert messages.skipped == 100 - len(seen)
    assert seen[:10] == list(range(10))
    assert seen[-10:] == list(range(90, 100))
    assert seen == sorted(set(seen))
    assert len(lost) == 2


async def test_one_that_skips_waits_until_memory_knows_what_the_file_has_lost(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address, settings=ClientSettings(window_messages=10)) as client:
        await peer.publish_many("a.b", [b"x"] * 100)
        async with client.subscribe("a.b", start="earliest", on_lost="skip") as messages:
            await wait_until(lambda: messages.position == 10)
            await retain(peer, 50, memory_knows=False)
            seen: list[int] = []
            reading = asyncio.create_task(read_into(seen, messages, 99))
            await wait_until(lambda: len(seen) == 10)
            peer._node.store.topics["a.b"].first_offset = 50
            await reading
            assert seen == [*range(10), *range(50, 100)]
            assert messages.skipped == 40


async def test_when_everything_is_taken_away_that_is_told_too(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address, settings=ClientSettings(window_messages=10)) as client:
        await peer.publish_many("a.b", [b"x"] * 100)
        async with client.subscribe("a.b", start="earliest", on_lost="skip") as messages:
            await wait_until(lambda: messages.position == 10)
            await retain(peer, 100)
            await peer.publish("a.b", b"new")
            seen: list[int] = []
            await read_into(seen, messages, 100)
            assert (seen, messages.skipped) == ([*range(10), 100], 90)


async def test_who_is_up_to_date_loses_nothing_when_all_it_has_read_goes(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client, client.subscribe("a.b", start="earliest") as messages:
        await peer.publish_many("a.b", [b"x"] * 10)
        await wait_until(lambda: messages.position == 10)
        await retain(peer, 10)
        await peer.publish("a.b", b"new")
        seen: list[int] = []
        await read_into(seen, messages, 10)
        assert seen == list(range(11))


async def test_holes_of_compaction_are_no_loss(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address, settings=ClientSettings(window_messages=3)) as client:
        await peer.publish_many("a.b", [b"x"] * 30)
        await peer._node.store.change_file(
            lambda c: c.exec_driver_sql("DELETE FROM messages WHERE offset BETWEEN 5 AND 20").close()
        )
        async with client.subscribe("a.b", start="earliest", on_lost="error") as messages:
            seen: list[int] = []
            await read_into(seen, messages, 29)
        assert seen == [*range(5), *range(21, 30)]
        async with client.subscribe("a.b", start=7) as messages:
            assert (await anext(messages)).offset == 21
