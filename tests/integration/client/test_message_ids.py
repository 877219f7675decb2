"""Ids that applications give their messages: each is stored once within the topic's window, whatever is lost."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import pubsub
from pubsub.model import NewMessage
from pubsub.protocol.messages import CopyState
from pubsub.storage import appending
from tests.docs.plain_client import PlainClient
from tests.integration.client.conftest import NOBODY, make_topic
from tests.proxy import FaultyProxy
from tests.waiting import wait_until


async def stored(peer: pubsub.Peer, topic: str = "a.b") -> list[bytes | None]:
    return [message.payload for message in await peer.query(topic, limit=10**6)]


def ids(*names: str, payload: str = "") -> list[NewMessage]:
    return [NewMessage(payload or name, message_id=name) for name in names]


@pytest.fixture
async def plain(peer: pubsub.Peer) -> AsyncIterator[PlainClient]:
    host, port = peer.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = PlainClient(reader, writer)
    await client.hello()
    yield client
    writer.close()
    await writer.wait_closed()


async def test_a_message_published_again_under_its_id_returns_its_offset(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    assert await client.publish("a.b", b"first", message_id="x") == 0
    assert await client.publish("a.b", b"other") == 1
    assert await client.publish("a.b", b"again", message_id="x") == 0
    assert await peer.publish("a.b", b"again", message_id="x") == 0
    assert await client.publish("a.b", NewMessage(b"again", message_id="x")) == 0
    assert await client.publish("a.b", b"new", message_id="y") == 2
    assert await stored(peer) == [b"first", b"other", b"new"]


async def test_a_batch_known_whole_in_part_and_within_itself(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    assert await client.publish_many("a.b", ids("a", "b", "c")) == [0, 1, 2]
    assert await client.publish_many("a.b", ids("a", "b", "c")) == [0, 1, 2]
    assert await client.publish_many("a.b", ids("d", "b", "e", "d", "a", "f")) == [3, 1, 4, 3, 0, 5]
    mixed = [b"plain", *ids("f"), b"plain too", *ids("g"), NewMessage(b"keyed", key="k", message_id="h")]
    assert await client.publish_many("a.b", mixed) == [6, 5, 7, 8, 9]
    assert await stored(peer) == [*b"a b c d e f".split(), b"plain", b"plain too", b"g", b"keyed"]
    assert [message.key for message in await peer.query("a.b", start=6)] == [None, None, None, "k"]


async def test_keys_and_headers_stay_with_their_messages_when_others_are_left_out(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    await client.publish("a.b", b"known", message_id="known")
    batch = [
        NewMessage(b"0", key="k0", headers={"h": "0"}),
        NewMessage(b"known", key="wrong", headers={"h": "wrong"}, message_id="known"),
        NewMessage(b"2", message_id="2"),
        NewMessage(b"3", key="k3", headers={"h": "3"}, message_id="3"),
    ]
    assert await client.publish_many("a.b", batch) == [1, 0, 2, 3]
    assert [(m.payload, m.key, dict(m.headers)) for m in await peer.query("a.b", start=1)] == [
        (b"0", "k0", {"h": "0"}),
        (b"2", None, {}),
        (b"3", "k3", {"h": "3"}),
    ]


async def test_calls_of_one_moment_share_batches_and_one_id_is_stored_once(
    peer: pubsub.Peer, client: pubsub.Client
) -> None:
    offsets = await asyncio.gather(
        *(client.publish("a.b", b"%d" % n, message_id=f"id{n % 50}") for n in range(500)),
        *(peer.publish("a.b", b"own", message_id=f"id{n % 50}") for n in range(100)),
        *(client.publish("a.b", b"plain") for _ in range(50)),
    )
    payloads = await stored(peer)
    assert len(payloads) == 100
    assert len(set(offsets[:600])) == 50
    for number in range(600):
        assert offsets[number] == offsets[number % 50]


async def test_one_id_of_two_publishers_in_one_commit_is_stored_once(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as one, pubsub.Client(peer.address) as two:
        batches = [ids(*(f"{n}.{part}" for part in range(10))) for n in range(20)]
        found = await asyncio.gather(
            *(client.publish_many("a.b", batch) for batch in batches for client in (one, two))
        )
    assert found[0::2] == found[1::2]
    assert len(await stored(peer)) == 200


async def test_an_async_iterable_may_carry_ids(peer: pubsub.Peer, client: pubsub.Client) -> None:
    async def messages():  # type: ignore[no-untyped-def]
        for message in ids("a", "b", "a"):
            yield message

    assert await client.publish_many("a.b", messages()) == [0, 1, 0]


async def test_ids_are_known_after_a_restart(tmp_path: Path) -> None:
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        assert await peer.publish("a.b", b"x", message_id="x") == 0
        assert await peer.publish("a.b", b"y", message_id="y") == 1
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as again:
        assert await again.publish("a.b", b"again", message_id="y") == 1
        async with pubsub.Client(again.address) as client:
            assert await client.publish_many("a.b", ids("y", "z", "x")) == [1, 2, 0]
        assert await stored(again) == [b"x", b"y", b"z"]


async def test_a_lost_acknowledgement_is_answered_with_the_same_offsets(peer: pubsub.Peer) -> None:
    batch = [b"plain", *ids("a", "new", "b", "new"), b"plain too"]
    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        peer._node.address = proxy.address
        assert await client.publish_many("a.b", ids("b", "a")) == [0, 1]
        proxy.swallow_answers = True
        publishing = asyncio.create_task(client.publish_many("a.b", batch))

        async def is_stored() -> bool:
            return len(await stored(peer)) == 5

        await wait_until(is_stored)
        proxy.swallow_answers = False
        proxy.cut()
        assert await publishing == [2, 1, 3, 0, 3, 4]
    assert await stored(peer) == [b"b", b"a", b"plain", b"new", b"plain too"]


async def test_a_batch_sent_again_says_the_same_even_if_an_id_is_somewhere_else_by_then(
    peer: pubsub.Peer, plain: PlainClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own sequence decides, with what was answered then: the window of its ids may be over."""
    topic_id = peer._node.store.topics["a.b"].id
    known = await peer.publish("a.b", b"k", message_id="k")
    clock = SimpleNamespace(time_ns=time.time_ns)
    monkeypatch.setattr(appending, "time", clock)
    batch = [10, "a.b", topic_id, 77, 0, None, None, [b"1", b"k", b"2"], -1, ["1", "k", None]]
    first = await plain.ask(*batch)
    assert first[2:5] == [1, False, [1, known, 2]]
    clock.time_ns = lambda: time.time_ns() + 200 * 10**9
    assert await peer.publish("a.b", b"k", message_id="k") == 3
    assert (await plain.ask(*batch))[2:5] == [1, True, [1, known, 2]]
    assert (await plain.ask(10, "a.b", topic_id, 77, 3, None, None, [b"next"]))[2:4] == [4, False]


async def test_a_whole_batch_of_known_ids_takes_its_sequence_numbers_all_the_same(
    peer: pubsub.Peer, plain: PlainClient
) -> None:
    topic_id = peer._node.store.topics["a.b"].id
    for message_id in ("a", "b"):
        await peer.publish("a.b", b"x", message_id=message_id)
    batch = [10, "a.b", topic_id, 5, 0, None, None, [b"b", b"a"], -1, ["b", "a"]]
    assert (await plain.ask(*batch))[2:5] == [1, True, [1, 0]]
    assert (await plain.ask(*batch))[2:5] == [1, True, [1, 0]]
    assert (await plain.ask(10, "a.b", topic_id, 5, 2, None, None, [b"new"]))[2:5] == [2, False, None]
    assert (await plain.ask(10, "a.b", topic_id, 5, 1, None, None, [b"new"]))[2] == "sequence_out_of_order"


@pytest.mark.parametrize(
    ("after_seconds", "policy", "twice"),
    [
        (0, {}, False),
        (119, {}, False),
        (121, {}, True),
        (9, {"dedupe_seconds": 10}, False),
        (11, {"dedupe_seconds": 10}, True),
        (0, {"dedupe_seconds": 0}, True),
        (500, {"dedupe_seconds": 600}, False),
    ],
)
async def test_an_id_is_known_as_long_as_the_policy_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_seconds: int,
    policy: dict[str, object],
    twice: bool,
) -> None:
    clock = SimpleNamespace(ns=time.time_ns())
    monkeypatch.setattr(appending, "time", SimpleNamespace(time_ns=lambda: clock.ns))
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await peer._node.holding.take(
            CopyState(id=1, topic="t", role="owner", owner="alice", epoch=1, created_us=1, policy=policy)
        )
        assert await peer.publish("t", b"1", message_id="x") == 0
        clock.ns += after_seconds * 10**9
        assert await peer.publish("t", b"2", message_id="x") == (1 if twice else 0)
        assert await peer.publish("t", b"3", message_id="x") == (
            2 if policy == {"dedupe_seconds": 0} else int(twice)
        )


async def test_at_the_edge_of_the_window_an_id_is_still_known(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(us=time.time_ns() // 1000)
    monkeypatch.setattr(appending, "time", SimpleNamespace(time_ns=lambda: clock.us * 1000))
    assert await peer.publish("a.b", b"1", message_id="x") == 0
    clock.us += 120_000_000
    assert await peer.publish("a.b", b"2", message_id="x") == 0
    clock.us += 1
    assert await peer.publish("a.b", b"3", message_id="x") == 1


async def test_ids_that_left_the_window_leave_the_file_as_others_come(
    peer: pubsub.Peer, client: pubsub.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(ns=time.time_ns())
    monkeypatch.setattr(appending, "time", SimpleNamespace(time_ns=lambda: clock.ns))
    for part in range(10):
        await client.publish_many("a.b", ids(*(f"{part}.{n}" for n in range(100))))
    clock.ns += 300 * 10**9
    for n in range(500):
        await peer.publish("a.b", b"x", message_id=f"late {n}")

    def left() -> int:
        with sqlite3.connect(f"file:{peer._node.store.path}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM message_ids").fetchone()[0])

    assert left() == 500


async def test_connections_cut_at_random_double_no_id_and_every_offset_is_right(peer: pubsub.Peer) -> None:
    chance = random.Random(11)
    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        peer._node.address = proxy.address

        async def publisher(number: int) -> list[tuple[str, int]]:
            found = []
            for _ in range(60):
                names = [f"id{chance.randrange(400)}" for _ in range(chance.randrange(1, 8))]
                found += list(zip(names, await client.publish_many("a.b", ids(*names)), strict=True))
                name = f"id{chance.randrange(400)}"
                found.append((name, await client.publish("a.b", name, message_id=name)))
            return found

        async def cutting() -> None:
            while True:
                await asyncio.sleep(chance.uniform(0.005, 0.03))
                proxy.swallow_answers = chance.random() < 0.5
                await asyncio.sleep(0.002)
                proxy.cut()
                proxy.swallow_answers = False

        cutter = asyncio.create_task(cutting())
        found = await asyncio.gather(*(publisher(n) for n in range(5)))
        cutter.cancel()
    payloads = await stored(peer)
    assert len(set(payloads)) == len(payloads)
    for answers in found:
        for name, offset in answers:
            assert payloads[offset] == name.encode()


@pytest.mark.parametrize("message_id", ["", "x" * 201, "\ud800", 5, b"x"])
async def test_what_is_no_id_is_refused(peer: pubsub.Peer, client: pubsub.Client, message_id: object) -> None:
    for publisher in (client, peer):
        with pytest.raises(pubsub.InvalidRequestError, match="message id") as caught:
            await publisher.publish("a.b", b"x", message_id=message_id)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        with pytest.raises(pubsub.InvalidRequestError, match="message id") as caught:
            await publisher.publish_many("a.b", [b"0", NewMessage(b"x", message_id=message_id)])  # type: ignore[arg-type]
        assert caught.value.data["index"] == 1
        assert len(caught.value.acknowledged) == 1
    assert await stored(peer) == [b"0", b"0"]


async def test_the_owner_refuses_what_is_no_id_too(peer: pubsub.Peer, plain: PlainClient) -> None:
    topic_id = peer._node.store.topics["a.b"].id
    for message_ids in ([""], ["x" * 201], ["a", "b"], []):
        reply = await plain.ask(10, "a.b", topic_id, 0, 0, None, None, [b"x"], -1, message_ids)
        assert reply[2] == "invalid_request", message_ids
    assert (await plain.ask(10, "a.b", topic_id, 0, 0, None, None, [b"x"], -1, ["x" * 200]))[0] == 11
