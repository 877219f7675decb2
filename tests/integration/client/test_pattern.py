"""Reading all topics that a pattern means: those there are and those that come, each in its order, once."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

import pubsub
from pubsub.client.pattern import PatternSubscription
from pubsub.config import ClientSettings, IndexSettings
from pubsub.index import IndexServer
from pubsub.model import Address
from pubsub.protocol.messages import Subscribe
from pubsub.registry import EmbeddedRegistry
from tests.ports import choose_free_port
from tests.waiting import wait_until

StartPeer = Callable[..., Awaitable[pubsub.Peer]]


class Collected:
    """What a subscription has given, by topic, while a task reads it."""

    def __init__(self, messages: pubsub.Subscription) -> None:
        self.by_topic: dict[str, list[bytes | None]] = defaultdict(list)
        self.offsets: dict[str, list[int]] = defaultdict(list)
        self.errors: list[pubsub.PubsubError] = []
        self._messages = messages
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            try:
                async for message in self._messages:
                    self.by_topic[message.topic].append(message.payload)
                    self.offsets[message.topic].append(message.offset)
                return
            except pubsub.PubsubError as error:
                self.errors.append(error)

    @property
    def count(self) -> int:
        return sum(map(len, self.by_topic.values()))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def index(stack: AsyncExitStack) -> IndexServer:
    registry = EmbeddedRegistry("127.0.0.1:0")
    server = IndexServer(registry, listen=Address("127.0.0.1", 0), settings=IndexSettings(ttl_seconds=6))
    return await stack.enter_async_context(server)


@pytest.fixture
def start_peer(stack: AsyncExitStack, index: IndexServer, tmp_path: Path) -> StartPeer:
    async def start(name: str, **options: object) -> pubsub.Peer:
        peer = pubsub.Peer(name, data=tmp_path / name, index=str(index.address), **options)  # type: ignore[arg-type]
        return await stack.enter_async_context(peer)

    return start


@pytest.fixture
async def peers(start_peer: StartPeer) -> list[pubsub.Peer]:
    return [await start_peer(name) for name in ("alice", "bob", "carol")]


@pytest.fixture
async def client(stack: AsyncExitStack, index: IndexServer) -> pubsub.Client:
    return await stack.enter_async_context(pubsub.Client(str(index.address), timeout_seconds=10))


async def collect(stack: AsyncExitStack, messages: pubsub.Subscription) -> Collected:
    await stack.enter_async_context(messages)
    collected = Collected(messages)

    async def stop() -> None:
        await messages.close()
        await collected.task

    stack.push_async_callback(stop)
    return collected


async def test_topics_on_all_peers_are_read_each_in_its_order(
    stack: AsyncExitStack, peers: list[pubsub.Peer], client: pubsub.Client
) -> None:
    for n in range(30):
        await peers[n % 3].create_topic(f"s.t{n}")
    await client.create_topic("other")
    await client.publish_many("s.t0", [b"old"] * 5)
    collected = await collect(stack, client.subscribe("s.>"))
    await asyncio.gather(
        *(client.publish_many(f"s.t{n}", [b"%d" % k for k in range(200)]) for n in range(30)),
        client.publish("other", b"not this"),
    )
    await wait_until(lambda: collected.count >= 6000)
    assert collected.by_topic == {f"s.t{n}": [b"%d" % k for k in range(200)] for n in range(30)}
    assert collected.offsets["s.t0"] == list(range(5, 205))


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        (">", {"a", "a.temp", "b.temp", "a.b.temp"}),
        ("*", {"a"}),
        ("*.temp", {"a.temp", "b.temp"}),
        ("a.>", {"a.temp", "a.b.temp"}),
        ("a.*.temp", {"a.b.temp"}),
    ],
)
async def test_a_pattern_means_what_it_means_for_lists(
    stack: AsyncExitStack, start_peer: StartPeer, client: pubsub.Client, pattern: str, meant: set[str]
) -> None:
    peer = await start_peer("alice")
    for name in ("a", "a.temp", "b.temp"):
        await peer.create_topic(name)
        await peer.publish(name, b"x")
    messages = client.subscribe(pattern, start="earliest")
    collected = await collect(stack, messages)
    await peer.create_topic("a.b.temp")
    await peer.publish("a.b.temp", b"x")
    await wait_until(lambda: collected.by_topic.keys() == meant)
    assert isinstance(messages, PatternSubscription)
    assert messages.topics == sorted(meant)


@pytest.mark.parametrize("start", ["latest", "earliest"])
async def test_a_topic_created_later_is_read_from_its_beginning_within_a_second(
    stack: AsyncExitStack, peers: list[pubsub.Peer], client: pubsub.Client, start: str
) -> None:
    collected = await collect(stack, client.subscribe("s.*", start=start))
    for n in range(6):
        name = f"s.new{n}"
        await peers[n % 3].create_topic(name)
        await peers[n % 3].publish_many(name, [b"0", b"1", b"2"])
        await wait_until(lambda name=name: collected.by_topic[name] == [b"0", b"1", b"2"], 1.0)  # type: ignore[misc]


async def test_a_deleted_topic_leaves_quietly_and_one_created_anew_is_read_from_its_beginning(
    stack: AsyncExitStack, peers: list[pubsub.Peer], client: pubsub.Client
) -> None:
    for name in ("s.a", "s.b"):
        await peers[0].create_topic(name)
    messages = client.subscribe("s.>")
    assert isinstance(messages, PatternSubscription)
    collected = await collect(stack, messages)
    await client.publish("s.a", b"first life")
    await wait_until(lambda: collected.count == 1)
    await client.delete_topic("s.a")
    await wait_until(lambda: messages.topics == ["s.b"])
    for life in range(3):
        owner = peers[life % 3]
        await owner.create_topic("s.a")
        await owner.publish_many("s.a", [b"life %d" % life, b"on"])
        await wait_until(lambda life=life: collected.count == 3 + life * 2)  # type: ignore[misc]
        if life < 2:
            await client.delete_topic("s.a")
    await client.publish("s.b", b"undisturbed")
    await wait_until(lambda: collected.by_topic["s.b"] == [b"undisturbed"])
    assert collected.offsets["s.a"] == [0, *[0, 1] * 3]
    assert collected.errors == []


async def test_no_message_published_after_entering_is_missed_while_topics_come_and_go(
    stack: AsyncExitStack, peers: list[pubsub.Peer], client: pubsub.Client
) -> None:
    chance = random.Random(3)
    collected = await collect(stack, client.subscribe("s.>"))
    published: dict[str, list[bytes]] = defaultdict(list)

    async def life(n: int) -> None:
        owner = chance.choice(peers)
        await owner.create_topic(f"s.{n}")
        for k in range(chance.randrange(1, 20)):
            await owner.publish(f"s.{n}", b"%d" % k)
            published[f"s.{n}"].append(b"%d" % k)
            await asyncio.sleep(chance.uniform(0, 0.01))

    await asyncio.gather(*(life(n) for n in range(100)))
    await wait_until(lambda: collected.by_topic == published)
    assert collected.errors == []


async def test_there_is_one_connection_to_each_owner(
    stack: AsyncExitStack, peers: list[pubsub.Peer], client: pubsub.Client
) -> None:
    for n in range(60):
        await peers[n % 3].create_topic(f"s.{n}")
    before = [len(peer._server.connections) for peer in peers]
    messages = client.subscribe("s.>")
    collected = await collect(stack, messages)
    await peers[0].create_topic("s.more")
    await peers[0].publish("s.more", b"x")
    await wait_until(lambda: collected.count == 1)
    now = [len(peer._server.connections) for peer in peers]
    assert [b - a for a, b in zip(before, now, strict=True)] == [1, 1, 1]
    await messages.close()
    await wait_until(lambda: [len(peer._server.connections) for peer in peers] == before)


async def test_broken_connections_lose_and_double_nothing(
    stack: AsyncExitStack, peers: list[pubsub.Peer], client: pubsub.Client
) -> None:
    names = [f"s.{n}" for n in range(12)]
    for n, name in enumerate(names):
        await peers[n % 3].create_topic(name)
    messages = client.subscribe("s.>")
    collected = await collect(stack, messages)
    for link in messages._gathering._streams._members:  # type: ignore[attr-defined]
        assert link.open
    chance = random.Random(1)

    async def publish(n: int) -> None:
        for k in range(100):
            await peers[n % 3].publish(names[n], b"%d" % k)
            await asyncio.sleep(chance.uniform(0, 0.004))

    publishing = asyncio.gather(*(publish(n) for n in range(12)))
    for _ in range(8):
        await asyncio.sleep(chance.uniform(0.01, 0.05))
        for link in list(messages._gathering._streams._members):  # type: ignore[attr-defined]
            if chance.random() < 0.6:
                link.abort()
    await publishing
    await wait_until(lambda: collected.count >= 1200)
    assert collected.by_topic == {name: [b"%d" % k for k in range(100)] for name in names}
    assert collected.errors == []


async def test_an_owner_that_comes_back_elsewhere_is_read_on(
    stack: AsyncExitStack, start_peer: StartPeer, client: pubsub.Client
) -> None:
    alice, bob = await start_peer("alice"), await start_peer("bob")
    await alice.create_topic("s.a")
    await bob.create_topic("s.b")
    collected = await collect(stack, client.subscribe("s.>"))
    for round_ in range(3):
        await alice.publish("s.a", b"%d" % round_)
        await bob.publish("s.b", b"%d" % round_)
        await wait_until(lambda: collected.count == 2 * (round_ + 1))  # noqa: B023
        await alice.close()
        await bob.publish("s.b", b"alone")
        alice = await start_peer("alice")
        await bob.publish("s.b", b"together")
        await wait_until(lambda: collected.by_topic["s.b"][-1] == b"together")
        collected.by_topic["s.b"] = collected.by_topic["s.b"][: round_ + 1]
    assert collected.by_topic["s.a"] == [b"0", b"1", b"2"]
    assert collected.errors == []


async def test_a_topic_whose_owner_is_away_joins_when_it_is_back(
    stack: AsyncExitStack, start_peer: StartPeer, client: pubsub.Client
) -> None:
    alice, bob = await start_peer("alice"), await start_peer("bob")
    await alice.create_topic("s.a")
    await bob.create_topic("s.b")
    await alice.publish("s.a", b"old")
    await alice.close()
    messages = client.subscribe("s.>", start="earliest")
    collected = await collect(stack, messages)
    await bob.publish("s.b", b"x")
    await wait_until(lambda: collected.count == 1)
    assert messages.topics == ["s.a", "s.b"]  # type: ignore[attr-defined]
    await start_peer("alice")
    await wait_until(lambda: collected.by_topic["s.a"] == [b"old"])


async def test_what_an_owner_stores_while_it_is_away_is_seen_too(
    stack: AsyncExitStack, start_peer: StartPeer, client: pubsub.Client, tmp_path: Path
) -> None:
    alice = await start_peer("alice")
    await alice.create_topic("s.a")
    await alice.publish("s.a", b"old")
    await alice.close()
    collected = await collect(stack, client.subscribe("s.>"))
    async with pubsub.Peer("alice", data=tmp_path / "alice", index="127.0.0.1:1") as isolated:
        await isolated.publish("s.a", b"stored without an index")
    await start_peer("alice")
    await wait_until(lambda: collected.by_topic["s.a"] == [b"stored without an index"])


async def test_peers_are_read_on_while_the_index_is_away_and_what_was_created_then_is_found(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    registry_port, port = choose_free_port(), choose_free_port()

    def make() -> IndexServer:
        registry = EmbeddedRegistry(f"127.0.0.1:{registry_port}")
        return IndexServer(registry, listen=Address("127.0.0.1", port), settings=IndexSettings(ttl_seconds=1))

    index = make()
    await index.start()
    address = f"127.0.0.1:{port}"
    alice = await stack.enter_async_context(pubsub.Peer("alice", data=tmp_path / "a", index=address))
    client = await stack.enter_async_context(pubsub.Client(address))
    await alice.create_topic("s.a")
    messages = client.subscribe("s.>")
    collected = await collect(stack, messages)
    await index.close()
    await alice.publish("s.a", b"without an index")
    await wait_until(lambda: collected.by_topic["s.a"] == [b"without an index"])
    for link in list(messages._gathering._streams._members):  # type: ignore[attr-defined]
        link.abort()
    await alice.publish("s.a", b"after a broken connection")
    await wait_until(lambda: len(collected.by_topic["s.a"]) == 2)
    index = make()
    await index.start()
    stack.push_async_callback(index.close)

    async def creates() -> bool:
        try:
            await alice.create_topic("s.new")
        except pubsub.TopicExistsError:
            return True
        except pubsub.PubsubError:
            return False
        return True

    await wait_until(creates, 20)
    await alice.publish("s.new", b"new")
    await wait_until(lambda: collected.by_topic["s.new"] == [b"new"], 20)
    assert collected.errors == []
    await messages.close()


async def test_what_the_application_leaves_untaken_is_bounded_and_holds_up_nobody_else(
    stack: AsyncExitStack, peers: list[pubsub.Peer], index: IndexServer
) -> None:
    settings = ClientSettings(window_messages=500, window_bytes=200_000)
    client = await stack.enter_async_context(pubsub.Client(str(index.address), settings=settings))
    for n in range(30):
        await peers[n % 3].create_topic(f"s.{n}")
        await peers[n % 3].publish_many(f"s.{n}", [b"%04d" % k + bytes(996) for k in range(1000)])
    messages = client.subscribe("s.>", start="earliest")
    await stack.enter_async_context(messages)
    await wait_until(lambda: messages._holding)  # type: ignore[attr-defined]
    held = -1
    while held != messages._held_bytes:
        held = messages._held_bytes
        await asyncio.sleep(0.1)
    assert held < 200_000 + 3 * 2_000_000  # and what one read of each connection brings
    assert await client.publish("s.0", b"not held up") == 1000
    counts: dict[str, int] = defaultdict(int)
    while sum(counts.values()) < 30 * 1000:
        for message in await messages.next_batch():
            if message.payload != b"not held up":
                assert message.payload is not None
                assert int(message.payload[:4]) == counts[message.topic]
                counts[message.topic] += 1
    assert set(counts.values()) == {1000}


async def test_a_busy_topic_does_not_keep_the_others_waiting(
    stack: AsyncExitStack, start_peer: StartPeer, client: pubsub.Client
) -> None:
    alice = await start_peer("alice")
    for name in ("s.busy", "s.quiet"):
        await alice.create_topic(name)
    await alice.publish_many("s.busy", [bytes(1000)] * 50_000)
    await alice.publish("s.quiet", b"x")
    async with client.subscribe("s.>", start="earliest") as messages:
        seen = 0
        async for message in messages:
            if message.topic == "s.quiet":
                break
            seen += 1
    assert seen < 40_000


async def test_a_thousand_topics_are_subscribed_to_at_once_not_one_after_the_other(
    stack: AsyncExitStack, peers: list[pubsub.Peer], client: pubsub.Client
) -> None:
    for start in range(0, 1000, 50):
        await asyncio.gather(*(peers[n % 3].create_topic(f"s.{n}") for n in range(start, start + 50)))
    await asyncio.gather(*(peers[n % 3].publish(f"s.{n}", b"%d" % n) for n in range(1000)))
    requests = 0
    for peer in peers:
        on_subscribe = peer._node.requests[Subscribe]

        async def counted(connection, frame, on_subscribe=on_subscribe):  # type: ignore[no-untyped-def]
            nonlocal requests
            requests += 1
            return await on_subscribe(connection, frame)

        peer._node.requests[Subscribe] = counted
    collected = await collect(stack, client.subscribe(">", start="earliest"))
    await wait_until(lambda: collected.count == 1000)
    assert requests == 1000
    assert collected.by_topic == {f"s.{n}": [b"%d" % n] for n in range(1000)}


async def test_start_at_a_time(stack: AsyncExitStack, start_peer: StartPeer, client: pubsub.Client) -> None:
    alice = await start_peer("alice")
    for name in ("s.a", "s.b"):
        await alice.create_topic(name)
        await alice.publish(name, b"before")
    at = datetime.now(UTC)
    for name in ("s.a", "s.b"):
        await alice.publish(name, b"after")
    collected = await collect(stack, client.subscribe("s.>", start=at))
    await wait_until(lambda: collected.count == 2)
    assert collected.by_topic == {"s.a": [b"after"], "s.b": [b"after"]}


async def test_the_error_of_one_topic_is_raised_and_the_others_go_on(
    stack: AsyncExitStack, start_peer: StartPeer, client: pubsub.Client
) -> None:
    alice = await start_peer("alice")
    for name in ("s.a", "s.b"):
        await alice.create_topic(name)
        await alice.publish_many(name, [b"x"] * 10)
    messages = client.subscribe("s.>")
    collected = await collect(stack, messages)
    assert isinstance(messages, PatternSubscription)
    await wait_until(lambda: all(m.reads for m in messages._gathering.members.values()))
    messages._gathering.members["s.a"].position = 1000  # as if its owner had gone back to an older file
    for link in list(messages._gathering._streams._members):
        link.abort()
    await wait_until(lambda: len(collected.errors) == 1)
    assert isinstance(collected.errors[0], pubsub.OffsetOutOfRangeError)
    await alice.publish("s.b", b"goes on")
    await wait_until(lambda: collected.by_topic["s.b"] == [b"goes on"])


async def test_closing_ends_iterating_quietly_and_leaves_nothing_behind(
    peers: list[pubsub.Peer], client: pubsub.Client
) -> None:
    for n in range(9):
        await peers[n % 3].create_topic(f"s.{n}")
    before = asyncio.all_tasks()
    messages = client.subscribe("s.>")
    async with messages:
        reading = asyncio.create_task(anext(messages))
        await asyncio.sleep(0)
        await messages.close()
        with pytest.raises(StopAsyncIteration):
            await reading
    await messages.close()
    with pytest.raises(pubsub.ClosedError):
        await messages.__aenter__()
    await wait_until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})  # type: ignore[operator]


async def test_a_client_reads_patterns_again_and_again(start_peer: StartPeer, client: pubsub.Client) -> None:
    """The index keeps no more watches of one connection than a hundred."""
    alice = await start_peer("alice")
    await alice.create_topic("s.a")
    await alice.publish("s.a", b"x")
    for _ in range(110):
        async with client.subscribe("s.>", start="earliest") as messages:
            assert (await anext(messages)).payload == b"x"


async def test_a_peer_reads_patterns_over_its_own_and_others_topics(
    stack: AsyncExitStack, peers: list[pubsub.Peer]
) -> None:
    for n in range(6):
        await peers[n % 3].create_topic(f"s.{n}")
    collected = await collect(stack, peers[0].subscribe("s.*"))
    for n in range(6):
        await peers[n % 3].publish(f"s.{n}", b"%d" % n)
    await peers[1].create_topic("s.new")
    await peers[1].publish("s.new", b"new")
    await wait_until(lambda: collected.count == 7)


async def test_without_an_index_entering_says_that_none_answers() -> None:
    async with pubsub.Client("127.0.0.1:1", timeout_seconds=0.3) as client:
        with pytest.raises(pubsub.IndexUnavailableError, match="no index answers"):
            async with client.subscribe("s.>"):
                pass


@pytest.mark.parametrize("pattern", [">.a", "a.**", "a>", "*a", "", "a..*", "*" * 201, "a b.*"])
async def test_what_is_no_pattern_is_refused_at_once(client: pubsub.Client, pattern: str) -> None:
    with pytest.raises(pubsub.InvalidNameError) as caught:
        client.subscribe(pattern)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": 5}, "start of a pattern"),
        ({"start": "now"}, "start"),
        ({"start": datetime(2030, 1, 1)}, "no zone"),
        ({"until": 5}, "until is for a subscription to one topic"),
        ({"durable": "d"}, "durable is for"),
        ({"group": "g"}, "group is for"),
        ({"auto_commit": False}, "auto_commit is for"),
        ({"reconnect_seconds": 1}, "reconnect_seconds is for"),
        ({"on_lost": "ignore"}, "on_lost"),
        ({"max_in_flight": 5}, "group"),
    ],
)
async def test_options_of_one_topic_are_refused(
    client: pubsub.Client, options: dict[str, object], said: str
) -> None:
    with pytest.raises(pubsub.InvalidRequestError, match=said) as caught:
        client.subscribe("s.>", **options)  # type: ignore[call-overload]
    assert "\n" not in str(caught.value)


async def test_a_relaying_client_reads_no_patterns(index: IndexServer) -> None:
    async with pubsub.Client(str(index.address), relay=True) as client:
        with pytest.raises(pubsub.InvalidRequestError, match="relay"):
            client.subscribe("s.>")
