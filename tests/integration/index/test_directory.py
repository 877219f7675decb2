import asyncio
from collections.abc import Sequence

import pytest

from pubsub.errors import InvalidNameError, TopicNotFoundError
from pubsub.index import IndexServer
from pubsub.index import directory as directory_module
from pubsub.registry import EmbeddedRegistry, TopicRecord
from tests.integration.index.asking import create, lookup, pages, redis, topics
from tests.integration.index.conftest import Connect, StartIndex, StartPeer
from tests.integration.index.fake_peer import a_copy
from tests.stopwatch import Stopwatch
from tests.waiting import wait_until


async def test_an_unknown_topic_is_not_found_and_the_way_out_is_named(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    with pytest.raises(TopicNotFoundError) as caught:
        await lookup(await open_link(index), "sensors.temp")
    assert str(caught.value) == "no topic sensors.temp; create it with: pubsub topic create sensors.temp"


@pytest.mark.parametrize("name", ["", "no topic", "a..b", "a.", "t" * 201, "*"])
async def test_an_illegal_name_is_refused(index: IndexServer, open_link: Connect, name: str) -> None:
    with pytest.raises(InvalidNameError):
        await lookup(await open_link(index), name)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (">", ["a", "a.b", "a.b.c", "a.c.c", "ab.b"]),
        ("a", ["a"]),
        ("a.b", ["a.b"]),
        ("*", ["a"]),
        ("a.*", ["a.b"]),
        ("a.>", ["a.b", "a.b.c", "a.c.c"]),
        ("a.*.c", ["a.b.c", "a.c.c"]),
        ("*.b", ["a.b", "ab.b"]),
        ("nothing", []),
        ("nothing.>", []),
    ],
)
async def test_topics_are_listed_by_pattern(
    index: IndexServer, start_peer: StartPeer, open_link: Connect, pattern: str, found: list[str]
) -> None:
    alice = await start_peer("alice", index)
    names = ["a", "a.b", "a.b.c", "a.c.c", "ab.b"]
    await alice.announce([a_copy(name, n + 1) for n, name in enumerate(names)])
    assert sorted(await topics(await open_link(index), pattern)) == found


async def test_an_illegal_pattern_is_refused(index: IndexServer, open_link: Connect) -> None:
    with pytest.raises(InvalidNameError):
        await topics(await open_link(index), "a.>.b")


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 35])
async def test_a_long_list_comes_in_pages(
    start_index: StartIndex, start_peer: StartPeer, open_link: Connect, count: int
) -> None:
    index = await start_index(page_topics=10)
    alice = await start_peer("alice", index)
    await alice.announce([a_copy(f"t.{n:02}", n + 1) for n in range(count)])
    found = await pages(await open_link(index))
    assert [topic.topic for page in found for topic in page] == [f"t.{n:02}" for n in range(count)]
    assert all(len(page) <= 10 for page in found)
    assert len(found) == max(1, -(-count // 10))


async def test_a_list_with_offsets_has_what_only_the_owners_know(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    bob, link = await start_peer("bob", index), await open_link(index)
    mine, away = await create(link, "mine", on="alice"), await create(link, "away", on="bob")
    await bob.leave()
    found = await topics(link, offsets=True)
    assert found["mine"].next_offset == mine.id % 1000 + 10
    assert (found["mine"].first_offset, found["mine"].read_only) == (10, "disk full")
    assert (found["away"].id, found["away"].online, found["away"].address) == (away.id, False, None)
    assert found["away"].next_offset is None


async def test_an_owner_that_does_not_answer_delays_a_list_once_and_its_topics_have_no_offsets(
    start_index: StartIndex,
    start_peer: StartPeer,
    open_link: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(directory_module, "HELD_SECONDS", 0.3)
    index = await start_index(page_topics=1)
    alice, link = await start_peer("alice", index), await open_link(index)
    await start_peer("bob", index)
    for number in range(4):
        await create(link, f"a{number}", on="alice")
        await create(link, f"b{number}", on="bob")
    alice.gate.clear()
    watch = Stopwatch()
    found = await topics(link, offsets=True)
    assert watch.seconds < 0.9  # once, not once in each of eight pages
    assert {name for name, topic in found.items() if topic.next_offset is None} == {"a0", "a1", "a2", "a3"}
    assert all(topic.online for topic in found.values())


async def test_a_record_that_somebody_damaged_in_redis_counts_as_absent(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "t")
    await redis(index, "HSET", "pubsub:topic:t", "created_at", 10**30)
    assert (await lookup(link, "t")).created_at is None
    await redis(index, "HDEL", "pubsub:topic:t", "epoch")
    with pytest.raises(TopicNotFoundError):
        await lookup(link, "t")
    await alice.announce()
    assert (await lookup(link, "t")).id == created.id


class GatedRegistry(EmbeddedRegistry):
    """Counts lookups, and holds them up."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:0")
        self.calls: list[Sequence[str]] = []
        self.gate = asyncio.Event()

    async def lookup(self, names: Sequence[str]) -> list[TopicRecord | None]:
        self.calls.append(names)
        await self.gate.wait()
        return await super().lookup(names)


@pytest.mark.parametrize("make_registry", ["embedded"], indirect=True)
async def test_lookups_that_arrive_while_one_is_under_way_share_the_next_one(
    start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    registry = GatedRegistry()
    registry.gate.set()
    index = await start_index(registry)
    alice, link = await start_peer("alice", index), await open_link(index)
    await alice.announce([a_copy(f"t{n}", n + 1) for n in range(10)])
    registry.calls.clear()
    registry.gate.clear()
    first = asyncio.create_task(lookup(link, "t0"))
    await wait_until(lambda: registry.calls == [["t0"]])
    others = [asyncio.create_task(lookup(link, f"t{n % 10}")) for n in range(40)]
    await wait_until(lambda: len(index._directory.lookups._waiting) == 40)
    registry.gate.set()
    found = await asyncio.gather(first, *others)
    assert [topic.topic for topic in found] == ["t0"] + [f"t{n % 10}" for n in range(40)]
    assert registry.calls == [["t0"], [f"t{n}" for n in range(10)]]
