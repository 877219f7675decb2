"""Reading: bounded chunks, and the offset of a time."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from pubsub.storage import appending
from pubsub.storage.store import Store
from tests.integration.storage.stores import append, change, copy_of


async def test_a_read_is_bounded_in_messages(open_store: Any) -> None:
    store = await open_store(read_messages=50)
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"%d" % n for n in range(120)])
    for start, limit, expected in ((0, 10, 10), (0, 1000, 50), (100, 1000, 20), (119, 1, 1)):
        batch = await store.read(topic, start, limit)
        assert batch is not None
        assert batch.payloads == [b"%d" % n for n in range(start, start + expected)]
    assert await store.read(topic, 120, 10) is None


@pytest.mark.parametrize("seed", range(5))
async def test_a_read_is_bounded_in_bytes_but_for_a_single_message(open_store: Any, seed: int) -> None:
    draw = random.Random(seed)
    store = await open_store(read_bytes=5_000)
    topic = await store.create(copy_of(1, "t"))
    lengths = [draw.choice((0, 3, 300, 4_999, 5_000, 5_001, 20_000)) for _ in range(100)]
    keys: list[str | None] = [draw.choice((None, "k" * 500)) for _ in lengths]
    await append(store, topic, [bytes(n) for n in lengths], keys=keys)
    position = 0
    while position < 100:
        bound = draw.choice((1, 700, 5_000, 50_000))
        batch = await store.read(topic, position, 1000, bound)
        assert batch is not None
        count = len(batch.payloads)
        sizes = [n + len(k or "") for n, k in zip(lengths[position:], keys[position:], strict=True)]
        most = min(bound, 5_000)
        assert count == 1 or sum(sizes[:count]) <= most
        assert position + count == 100 or sum(sizes[: count + 1]) > most  # and no shorter than it could be
        assert [len(payload or b"") for payload in batch.payloads] == lengths[position : position + count]
        position += count


async def test_only_what_is_committed_is_read(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"a", b"b", b"c"])
    topic.committed = 2
    batch = await store.read(topic, 0, 10)
    assert batch is not None
    assert batch.payloads == [b"a", b"b"]
    assert await store.read(topic, 2, 10) is None


async def store_at(store: Store, times: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(us=0)
    monkeypatch.setattr(appending, "time", SimpleNamespace(time_ns=lambda: clock.us * 1000))
    topic = await store.create(copy_of(1, "t"))
    for clock.us in times:
        await append(store, topic, [b"x"])


@pytest.mark.parametrize("seed", range(6))
async def test_the_offset_of_a_time_is_that_of_the_first_message_at_or_after_it(
    open_store: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    times = sorted(draw.choices(range(100, 140), k=40))  # with ties
    store = await open_store()
    await store_at(store, times, monkeypatch)
    kept = set(range(40))
    if seed >= 2:  # as after compaction
        await store.close()
        gone = set(draw.sample(range(40), 25)) | (set(range(30, 40)) if seed == 3 else set())
        change(store.path, f"DELETE FROM messages WHERE offset IN ({','.join(map(str, gone))})")
        kept -= gone
        store = await open_store()
    topic = store.topic("t")
    for at in (0, *range(99, 142), 10**9):
        expected = min((offset for offset in kept if times[offset] >= at), default=40)
        assert await store.offset_at(topic, at) == expected, at


async def test_an_empty_topic_has_only_its_next_offset(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    assert await store.offset_at(topic, 0) == 0
    assert await store.read(topic, 0, 10) is None


async def test_holes_are_read_with_the_offsets_that_are_left(open_store: Any) -> None:
    store = await open_store()
    await append(store, await store.create(copy_of(1, "t")), [b"%d" % n for n in range(10)])
    await store.close()
    change(store.path, "DELETE FROM messages WHERE offset IN (0, 4, 5, 9)")
    store = await open_store()
    topic = store.topic("t")
    batch = await store.read(topic, 0, 10)
    assert batch is not None
    assert (batch.offsets, batch.payloads) == ([1, 2, 3, 6, 7, 8], [b"1", b"2", b"3", b"6", b"7", b"8"])
    assert await append(store, topic, [b"new"]) == 10
