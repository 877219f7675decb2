"""A producer's batches are stored once and in order, whatever is sent again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pubsub.core.sequence import REMEMBERED_BATCHES
from pubsub.errors import SequenceError
from pubsub.storage import producers
from pubsub.storage.store import Store
from tests.integration.storage.stores import append, ask, change, copy_of, read_all, submit, writer_held

P = 4711


async def fill(store: Store, batches: int) -> list[tuple[int, int, int]]:
    """Store batches of one to three messages; (sequence, messages, offset) of each."""
    topic = store.topic("t")
    sent = []
    sequence = 0
    for number in range(batches):
        count = number % 3 + 1
        offset = await append(store, topic, [b"%d" % number] * count, producer=P, sequence=sequence)
        sent.append((sequence, count, offset))
        sequence += count
    return sent


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a restart"])
async def test_each_of_the_remembered_batches_is_recognised_when_it_is_sent_again(
    open_store: Any, restart: bool
) -> None:
    store = await open_store()
    await store.create(copy_of(1, "t"))
    sent = await fill(store, REMEMBERED_BATCHES + 5)
    if restart:
        await store.close()
        store = await open_store()
    topic = store.topic("t")
    everything = await read_all(store, topic)
    for sequence, count, offset in sent[-REMEMBERED_BATCHES:]:
        again = submit(store, topic, [b"again"] * count, producer=P, sequence=sequence)
        assert await again == (offset, True)
    for sequence, count, _ in sent[:-REMEMBERED_BATCHES]:
        with pytest.raises(SequenceError, match="nothing of them was stored"):
            await submit(store, topic, [b"again"] * count, producer=P, sequence=sequence)
    assert await read_all(store, topic) == everything
    assert topic.next_offset == len(everything)


async def test_a_gap_is_refused_with_what_was_expected_and_stores_nothing(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"a", b"b"], producer=P)
    for sequence in (3, 1, 100):
        with pytest.raises(SequenceError) as raised:
            await submit(store, topic, [b"c"], producer=P, sequence=sequence)
        assert raised.value.data == {"expected": 2}
    assert await read_all(store, topic) == [b"a", b"b"]
    assert await append(store, topic, [b"c"], producer=P, sequence=2) == 2


async def test_a_batch_of_another_length_is_not_taken_for_the_one_that_was_sent(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"a", b"b"], producer=P)
    with pytest.raises(SequenceError):
        await submit(store, topic, [b"a"], producer=P, sequence=0)


async def test_after_a_gap_the_rest_of_the_group_is_refused_too(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    async with writer_held(store):
        answers = [submit(store, topic, [b"%d" % n], producer=P, sequence=n) for n in (0, 1, 3, 4, 2)]
        other = submit(store, topic, [b"other"], producer=P + 1, sequence=0)
    results = await asyncio.gather(*answers, return_exceptions=True)
    assert [r if isinstance(r, tuple) else type(r) for r in results] == [
        (0, False),
        (1, False),
        SequenceError,
        SequenceError,
        (2, False),
    ]
    assert await other == (3, False)
    assert await read_all(store, topic) == [b"0", b"1", b"2", b"other"]


async def test_a_batch_sent_twice_within_one_group_is_stored_once(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    async with writer_held(store):
        answers = [submit(store, topic, [b"x"], producer=P, sequence=0) for _ in range(3)]
    assert await asyncio.gather(*answers) == [(0, False), (0, True), (0, True)]
    assert await read_all(store, topic) == [b"x"]


async def test_producers_and_topics_do_not_know_each_other(store: Store) -> None:
    topics = [await store.create(copy_of(n, f"t{n}")) for n in (1, 2)]
    for topic in topics:
        for number, producer in enumerate((P, P + 1)):
            assert await submit(store, topic, [b"x"], producer=producer) == (number, False)


async def test_more_producers_than_are_kept_in_memory_are_all_recognised(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "PRODUCERS_CACHED", 10)
    topic = await store.create(copy_of(1, "t"))
    async with writer_held(store):
        answers = [submit(store, topic, [b"x"], producer=n) for n in range(1, 100)]
    await asyncio.gather(*answers)
    assert len(store._writer._appender.producers._states) <= 10
    for n in range(1, 100):
        assert await submit(store, topic, [b"x"], producer=n) == (n - 1, True)


async def test_a_producer_that_has_been_silent_for_long_is_forgotten_at_the_next_look(
    open_store: Any,
) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    for producer in (1, 2):
        await append(store, topic, [b"x"], producer=producer)
    await store.close()
    long_ago_us = time.time_ns() // 1000 - 8 * 86_400 * 1_000_000
    change(store.path, f"UPDATE producers SET updated_at = {long_ago_us} WHERE producer = 1")
    store = await open_store()
    assert await store.upkeep.forget_producers((0, 0), long_ago_us + 1) is None
    assert await submit(store, store.topic("t"), [b"x"], producer=2) == (1, True)
    assert ask(store.path, "SELECT group_concat(producer) FROM producers") == "2"
    assert await submit(store, store.topic("t"), [b"x"], producer=1) == (2, False)
