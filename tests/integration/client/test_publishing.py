"""Publishing over connections that break: every message is stored once, in order, or its publisher is told."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

import pytest

import pubsub
from pubsub.config import ClientSettings
from pubsub.errors import LocalProtocolError
from pubsub.storage.work import Append
from tests.integration.client.conftest import NOBODY, make_topic
from tests.proxy import FaultyProxy
from tests.waiting import wait_until


async def stored(peer: pubsub.Peer, topic: str = "a.b") -> list[bytes | None]:
    return [message.payload for message in await peer.query(topic, limit=10**6)]


def through(proxy: FaultyProxy, peer: pubsub.Peer) -> None:
    """Have clients reach the peer through the proxy only."""
    peer._node.address = proxy.address


async def test_offsets_are_those_of_the_log(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        assert await client.publish("a.b", b"0") == 0
        assert await client.publish_many("a.b", [b"1", b"2"]) == [1, 2]
        assert await peer.publish("a.b", b"3") == 3
        assert await asyncio.gather(*(client.publish("a.b", b"%d" % n) for n in range(4, 2500))) == list(
            range(4, 2500)
        )
    assert await stored(peer) == [b"%d" % n for n in range(2500)]


async def test_what_was_published_is_not_left_to_the_garbage_collector(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        gc.collect()  # what tests before this one have left
        gc.disable()
        try:
            await client.publish_many("a.b", [b"x"] * 5000)
            await asyncio.gather(*(client.publish("a.b", b"x") for _ in range(100)))
            await peer.publish("a.b", b"x")
            await wait_until(lambda: not any(isinstance(found, Append) for found in gc.get_objects()))
        finally:
            gc.enable()


async def test_keys_headers_and_text_arrive_as_they_were_given(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", "grüße", key="k", headers={"unit": "°C"})
        await client.publish_many(
            "a.b", [b"x", pubsub.NewMessage(b"y", key="own", headers={"a": "1"})], key="shared"
        )
        await client.publish_many("a.b", iter([bytearray(b"z"), memoryview(b"w")]), headers={"h": "v"})
        found = await client.query("a.b")
    assert [(m.key, dict(m.headers), m.payload) for m in found] == [
        ("k", {"unit": "°C"}, "grüße".encode()),
        ("shared", {}, b"x"),
        ("own", {"a": "1"}, b"y"),
        (None, {"h": "v"}, b"z"),
        (None, {"h": "v"}, b"w"),
    ]


async def test_publish_many_takes_an_async_iterable_and_sends_each_item_at_once(peer: pubsub.Peer) -> None:
    gate = asyncio.Event()

    async def slow():  # type: ignore[no-untyped-def]
        yield b"first"
        await gate.wait()
        yield b"second"

    async with pubsub.Client(peer.address) as client:
        publishing = asyncio.create_task(client.publish_many("a.b", slow()))

        async def first_is_stored() -> bool:
            return await stored(peer) == [b"first"]

        await wait_until(first_is_stored)
        gate.set()
        assert await publishing == [0, 1]


async def test_an_endless_iterable_is_read_no_faster_than_the_owner_stores(peer: pubsub.Peer) -> None:
    taken = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 1000

    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        through(proxy, peer)
        proxy.swallow_answers = True
        publishing = asyncio.create_task(client.publish_many("a.b", endless()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(publishing), 0.5)
        assert taken < 40_000
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        proxy.swallow_answers = False
        proxy.cut()


async def test_a_lost_acknowledgement_does_not_double_a_message(peer: pubsub.Peer) -> None:
    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        through(proxy, peer)
        assert await client.publish("a.b", b"before") == 0
        proxy.swallow_answers = True
        publishing = asyncio.create_task(client.publish("a.b", b"once"))

        async def is_stored() -> bool:
            return await stored(peer) == [b"before", b"once"]

        await wait_until(is_stored)
        proxy.swallow_answers = False
        proxy.cut()
        assert await publishing == 1
        assert await client.publish("a.b", b"after") == 2
    assert await stored(peer) == [b"before", b"once", b"after"]


async def test_connections_cut_at_random_lose_and_double_nothing(peer: pubsub.Peer) -> None:
    chance = random.Random(7)
    async with FaultyProxy(*peer.address.split(":")) as proxy, pubsub.Client(peer.address) as client:
        through(proxy, peer)

        async def single(publisher: int) -> list[int]:
            return [await client.publish("a.b", b"%d:%d" % (publisher, n)) for n in range(150)]

        async def many() -> pubsub.Offsets:
            return await client.publish_many("a.b", [b"many:%d" % n for n in range(20_000)])

        async def cutting() -> None:
            while True:
                await asyncio.sleep(chance.uniform(0.005, 0.05))
                proxy.swallow_answers = chance.random() < 0.5
                await asyncio.sleep(0.002)
                proxy.cut()
                proxy.swallow_answers = False

        cutter = asyncio.create_task(cutting())
        offsets = await asyncio.gather(many(), *(single(p) for p in range(10)))
        cutter.cancel()
    assert proxy.connections_made > 3
    payloads = await stored(peer)
    assert len(payloads) == 20_000 + 10 * 150
    assert [payloads[offset] for offset in offsets[0]] == [b"many:%d" % n for n in range(20_000)]
    for publisher in range(10):
        mine = offsets[publisher + 1]
        assert list(mine) == sorted(mine)
        assert [payloads[offset] for offset in mine] == [b"%d:%d" % (publisher, n) for n in range(150)]


async def test_a_restarted_owner_still_knows_what_it_stored(tmp_path: Path) -> None:
    client = pubsub.Client("127.0.0.1:1")
    async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as peer:
        await make_topic(peer, "a.b")
        async with FaultyProxy(*peer.address.split(":")) as proxy:
            through(proxy, peer)
            client = pubsub.Client([peer.address, proxy.address])
            await client.open()
            assert await client.publish("a.b", b"before") == 0
            proxy.swallow_answers = True
            publishing = asyncio.create_task(client.publish("a.b", b"once"))

            async def is_stored() -> bool:
                return await stored(peer) == [b"before", b"once"]

            await wait_until(is_stored)
            await peer.close()
            proxy.swallow_answers = False
            async with pubsub.Peer("alice", data=tmp_path / "a", index=NOBODY) as again:
                host, port = again.address.split(":")
                proxy.target = (host, int(port))
                through(proxy, again)
                assert await publishing == 1
                assert await stored(again) == [b"before", b"once"]
                await client.close()


async def test_a_message_over_the_limit_is_named_and_those_before_it_are_stored(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        with pytest.raises(pubsub.MessageTooLargeError, match="1048576") as caught:
            await client.publish_many("a.b", [b"0", b"1", b"x" * 1_048_577, b"3"])
        assert caught.value.data["index"] == 2
        assert caught.value.acknowledged == [0, 1]
        with pytest.raises(pubsub.MessageTooLargeError, match="1048576"):
            await client.publish("a.b", b"x" * 1_048_577)
        assert await client.publish("a.b", b"x" * 1_048_576) == 2
    assert len(await stored(peer)) == 3


@pytest.mark.parametrize("payload", [None, 5, ["x"], "\ud800"])
async def test_what_is_no_payload_is_refused(peer: pubsub.Peer, payload: object) -> None:
    async with pubsub.Client(peer.address) as client:
        with pytest.raises(pubsub.InvalidRequestError):
            await client.publish("a.b", payload)  # type: ignore[arg-type]
        with pytest.raises(pubsub.InvalidRequestError):
            await client.publish_many("a.b", [payload])  # type: ignore[list-item]
        with pytest.raises(pubsub.InvalidRequestError):
            await client.publish("a.b", b"x", headers={"a": 1})  # type: ignore[dict-item]
        with pytest.raises(pubsub.InvalidRequestError):
            await client.publish("a.b", b"x", key=1)  # type: ignore[arg-type]
    assert await stored(peer) == []


async def test_a_key_that_is_no_text_for_utf8_is_refused_and_the_next_messages_go_on(
    peer: pubsub.Peer,
) -> None:
    async with pubsub.Client(peer.address) as client:
        for publisher in (client, peer):
            with pytest.raises(pubsub.InvalidRequestError, match="UTF-8"):
                await publisher.publish("a.b", b"x", key="\ud800")
            with pytest.raises(pubsub.InvalidRequestError, match="UTF-8"):
                await publisher.publish_many("a.b", [pubsub.NewMessage(b"x", key="\ud800")])
        assert await client.publish("a.b", b"x", key="é") == 0


async def test_a_batch_that_cannot_be_encoded_fails_alone(
    peer: pubsub.Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pubsub.client.publish_verbs.check_key", lambda key: key)
    async with pubsub.Client(peer.address) as client:
        for _ in range(2):
            with pytest.raises(LocalProtocolError):
                await client.publish("a.b", b"x", key="\ud800")
        assert await client.publish("a.b", b"x") == 0


async def test_an_unreachable_owner_is_a_timeout_that_says_what_is_known(peer: pubsub.Peer) -> None:
    settings = ClientSettings(timeout_seconds=0.6, connect_seconds=0.2)
    async with (
        FaultyProxy(*peer.address.split(":")) as proxy,
        pubsub.Client(peer.address, settings=settings) as client,
    ):
        through(proxy, peer)
        assert await client.publish("a.b", b"0") == 0
        proxy.swallow_answers = True
        with pytest.raises(pubsub.TimeoutExpiredError, match="unknown"):
            await client.publish("a.b", b"perhaps")
        proxy.swallow_answers = False
        # the lane goes on as another producer: what it sends now is stored once, whatever became of that
        await client.publish("a.b", b"later")
    payloads = await stored(peer)
    assert payloads[0] == b"0"
    assert payloads.count(b"perhaps") <= 1
    assert payloads[-1] == b"later"


async def test_publishing_to_a_missing_topic_fails_at_once_without_an_index_it_is_retriable(
    peer: pubsub.Peer,
) -> None:
    async with pubsub.Client(peer.address, timeout_seconds=0.3) as client:
        with pytest.raises(pubsub.PubsubError) as caught:
            await client.publish("no.such", b"x")
        assert caught.value.code in ("timeout", "index_unavailable")


async def test_closing_waits_for_what_was_published(peer: pubsub.Peer) -> None:
    async with pubsub.Client(peer.address) as client:
        publishing = [asyncio.create_task(client.publish("a.b", b"%d" % n)) for n in range(100)]
        await asyncio.sleep(0)
    assert [await task for task in publishing] == list(range(100))
    with pytest.raises(pubsub.ClosedError):
        await client.publish("a.b", b"late")


async def test_a_closed_client_leaves_no_task_behind(peer: pubsub.Peer) -> None:
    before = asyncio.all_tasks()
    async with pubsub.Client(peer.address) as client:
        await client.publish("a.b", b"x")
        async with client.subscribe("a.b", start="earliest") as messages:
            assert (await anext(messages)).payload == b"x"
    await wait_until(lambda: asyncio.all_tasks() <= before)
