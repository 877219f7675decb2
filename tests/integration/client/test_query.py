"""Queries by key and header: found at the owner, in bounded parts, all of it and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pubsub
from pubsub.client.asking import ask_owner
from pubsub.config import StorageSettings
from pubsub.protocol import messages as m
from pubsub.storage import searching
from tests.integration.client.conftest import NOBODY, make_topic
from tests.stopwatch import Stopwatch


async def offsets(client: pubsub.Client, **options: Any) -> list[int]:
    return [message.offset for message in await client.query("a.b", **options)]


async def requests_of(monkeypatch: pytest.MonkeyPatch) -> list[m.QueryResult]:
    """The replies of the owner from now on."""
    replies: list[m.QueryResult] = []

    async def ask(*arguments: Any, **options: Any) -> Any:
        reply = await ask_owner(*arguments, **options)
        if isinstance(reply, m.QueryResult):
            replies.append(reply)
        return reply

    monkeypatch.setattr("pubsub.client.asking.ask_owner", ask)
    return replies


async def test_messages_with_a_key_are_found(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        for n in range(9):
            await client.publish("a.b", b"%d" % n, key=[None, "", "room-1"][n % 3])
        assert await offsets(client, key="room-1") == [2, 5, 8]
        assert await offsets(client, key="") == [1, 4, 7]
        assert await offsets(client, key="room-2") == []
        assert await offsets(client, key="room-1", limit=2) == [2, 5]
        assert await offsets(client, key="room-1", start=3, until=8) == [5]


async def test_messages_with_headers_are_found(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", b"0", headers={"unit": "C", "site": "1"})
        await client.publish("a.b", b"1", headers={"unit": "F", "site": "1"})
        await client.publish("a.b", b"2")
        await client.publish("a.b", b"3", headers={"unit": "C"}, key="k")
        assert await offsets(client, headers={"unit": "C"}) == [0, 3]
        assert await offsets(client, headers={"unit": "C", "site": "1"}) == [0]
        assert await offsets(client, headers={"unit": "C"}, key="k") == [3]
        assert await offsets(client, headers={"Unit": "C"}) == []
        assert await offsets(client, headers={"unit": "c"}) == []
        assert await offsets(client, headers={}) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "'",
        "a.b",
        "$",
        "$.x",
        "[0]",
        "*",
        "%",
        "é🙂",
        "\\",
        "a\nb",
        "x' OR 1=1 --",
        '"; DROP TABLE',
        " ",
        "",
    ],
)
async def test_a_name_or_value_is_only_ever_that(peer: pubsub.Peer, text: str) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", b"decoy", headers={"unit": "C", "x": "y"}, key="k")
        await client.publish("a.b", b"as name", headers={text: "value"})
        await client.publish("a.b", b"as value", headers={"name": text})
        await client.publish("a.b", b"as key", key=text)
        assert await offsets(client, headers={text: "value"}) == [1]
        assert await offsets(client, headers={"name": text}) == [2]
        assert await offsets(client, key=text) == [3]


async def test_few_among_many_are_found_by_requests_that_each_look_at_a_bounded_part(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", b"first", key="rare")
        await client.publish_many("a.b", [b"x"] * 70_000, key="common")
        await client.publish("a.b", b"last", key="rare")
        replies = await requests_of(monkeypatch)
        assert await offsets(client, key="rare") == [0, 70_001]
        assert len(replies) >= 4
        steps = [b.position - a for a, b in zip([0, *(r.position for r in replies)], replies, strict=False)]
        assert all(0 < step <= searching.SEARCH_ROWS for step in steps)
        assert replies[-1].position == 70_002


async def test_a_part_that_takes_long_to_look_at_ends_early(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 10_000)
        monkeypatch.setattr(searching, "SEARCH_SECONDS", -1.0)
        replies = await requests_of(monkeypatch)
        assert await offsets(client, key="none") == []
        assert [reply.position for reply in replies] == [2000, 4000, 6000, 8000, 10_000]


async def test_what_is_found_comes_in_frames_of_bounded_size(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x" * 300_000] * 20, key="k")
        replies = await requests_of(monkeypatch)
        assert await offsets(client, key="k") == list(range(20))
        assert max(len(reply.batch.payloads) for reply in replies if reply.batch) <= 7


async def test_a_query_is_not_led_on_by_what_is_published_meanwhile(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 30_000)
        stop = asyncio.Event()

        async def publish() -> None:
            while not stop.is_set():
                await client.publish_many("a.b", [b"y"] * 1000)

        publishing = asyncio.create_task(publish())
        async with asyncio.timeout(20):
            assert await offsets(client, key="none") == []
        stop.set()
        await publishing


async def test_holes_are_stepped_over(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 9000, key="k")
        await client.publish("a.b", b"last", key="other")
        topic = peer._node.store.topics["a.b"]
        await peer._node.store.change_file(
            lambda c: c.exec_driver_sql(
                "DELETE FROM messages WHERE topic_id = ? AND offset BETWEEN 5 AND 8990", (topic.id,)
            ).close()
        )
        assert await offsets(client, key="other") == [9000]
        assert await offsets(client, key="k", limit=100) == [*range(5), *range(8991, 9000)]


async def test_other_readers_are_not_kept_waiting_by_a_long_search(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as searcher, pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 100_000)
        searching_ = asyncio.create_task(searcher.query("a.b", headers={"none": "x"}))
        waits = []
        while not searching_.done():
            watch = Stopwatch()
            await client.query("a.b", start=50_000, limit=1)
            waits.append(watch.seconds)
        assert await searching_ == []
        assert sorted(waits)[len(waits) // 2] < 1.0


async def test_a_filtered_query_that_retention_overtakes_is_an_error(tmp_path: Any) -> None:
    settings = StorageSettings()
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY, storage_settings=settings) as peer:
        await make_topic(peer, "a.b")
        await peer.publish_many("a.b", [b"x"] * 10, key="k")
        topic = peer._node.store.topics["a.b"]

        def retain(connection: Any) -> None:  # on disk only: what memory does not know yet
            connection.exec_driver_sql("DELETE FROM messages WHERE offset < 5").close()
            connection.exec_driver_sql("UPDATE topics SET first_offset = 5").close()

        await peer._node.store.change_file(retain)
        assert topic.first_offset == 0
        for options in ({}, {"key": "k"}):
            with pytest.raises(pubsub.OffsetOutOfRangeError, match="offsets 2 to 4"):
                await peer.query("a.b", start=2, **options)  # type: ignore[arg-type]
            assert await offsets(peer, **options) == [5, 6, 7, 8, 9]  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [b"k", 7, ["k"]])
async def test_what_is_no_key_is_refused(peer: pubsub.Peer, key: Any) -> None:
    async with pubsub.Client(peer.address) as client:
        with pytest.raises(pubsub.InvalidRequestError, match="key"):
            await client.query("a.b", key=key)


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"b"}])
async def test_what_are_no_headers_is_refused(peer: pubsub.Peer, headers: Any) -> None:
    async with pubsub.Client(peer.address) as client:
        with pytest.raises(pubsub.InvalidRequestError, match="header"):
            await client.query("a.b", headers=headers)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "10", None])
async def test_what_is_no_limit_is_refused(peer: pubsub.Peer, limit: Any) -> None:
    async with pubsub.Client(peer.address) as client:
        with pytest.raises(pubsub.InvalidRequestError, match="limit"):
            await client.query("a.b", key="k", limit=limit)


async def test_a_huge_limit_is_none(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish_many("a.b", [b"x"] * 5, key="k")
        assert await offsets(client, key="k", limit=10**30) == [0, 1, 2, 3, 4]
