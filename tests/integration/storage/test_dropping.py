"""Dropping a topic: gone at once, its rows little by little, its room given back."""

from __future__ import annotations

from typing import Any

import pytest

from pubsub.storage import purging
from pubsub.storage.store import Store
from tests.integration.storage.stores import append, ask, copy_of, read_all
from tests.waiting import wait_until


def rows(store: Store, topic_id: int) -> int:
    return int(ask(store.path, "SELECT count(*) FROM messages WHERE topic_id = ?", topic_id))


async def test_a_dropped_topic_leaves_nothing_and_others_are_left_alone(store: Store) -> None:
    dropped, kept = [await store.create(copy_of(n, f"t{n}")) for n in (1, 2)]
    for topic in (dropped, kept):
        await append(store, topic, [b"x"] * 10, producer=5)
    await store.drop(dropped)
    assert set(store.topics) == {"t2"}
    await wait_until(lambda: 1 not in store.by_id)
    for table, column in (("messages", "topic_id"), ("producers", "topic_id"), ("topics", "id")):
        assert ask(store.path, f"SELECT count(*) FROM {table} WHERE {column} = 1") == 0
        assert ask(store.path, f"SELECT count(*) FROM {table} WHERE {column} = 2") > 0
    assert await read_all(store, kept) == [b"x"] * 10


async def test_rows_go_in_portions_between_which_appends_are_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "DROP_ROWS", 100)
    dropped, other = [await store.create(copy_of(n, f"t{n}")) for n in (1, 2)]
    await append(store, dropped, [b"x"] * 5_000)
    await store.drop(dropped)
    left = []
    while 1 in store.by_id:
        await append(store, other, [b"y"])
        left.append(rows(store, 1))
    assert len(set(left)) > 5
    assert left == sorted(left, reverse=True)
    assert await read_all(store, other) == [b"y"] * len(left)


async def test_a_portion_of_large_messages_is_bounded_in_bytes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "DROP_BYTES", 100_000)
    dropped = await store.create(copy_of(1, "t"))
    for _ in range(10):
        await append(store, dropped, [bytes(50_000)] * 10)
    told: list[int] = []

    def last_of_portion(connection: Any) -> None:
        told.append(purging._end_of_portion(connection, 1))

    await store.change_file(last_of_portion)
    assert told == [1]


async def test_dropping_goes_on_after_a_restart_in_the_middle(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "DROP_ROWS", 100)
    store = await open_store()
    await append(store, await store.create(copy_of(1, "t")), [b"x"] * 5_000)
    await store.drop(store.topic("t"))
    await store.close()
    assert 0 < rows(store, 1) < 5_000
    store = await open_store()
    assert store.topics == {}  # not served again meanwhile
    again = await store.create(copy_of(2, "t"))
    assert await append(store, again, [b"new"]) == 0
    await wait_until(lambda: 1 not in store.by_id)
    assert rows(store, 1) == 0
    assert await read_all(store, again) == [b"new"]


async def test_the_file_shrinks_after_a_drop(open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "SHRINK_PAGES", 50)
    store = await open_store()
    dropped, kept = [await store.create(copy_of(n, f"t{n}")) for n in (1, 2)]
    for _ in range(40):
        await append(store, dropped, [bytes(100_000)])
        await append(store, kept, [b"k" * 100] * 10)
    await store.close()
    before = store.path.stat().st_size
    assert before > 4_000_000
    store = await open_store()
    await store.drop(store.topic("t1"))
    await wait_until(lambda: 1 not in store.by_id and ask(store.path, "PRAGMA freelist_count") == 0)
    await store.close()
    assert store.path.stat().st_size < before / 10
    store = await open_store()
    assert await read_all(store, store.topic("t2")) == [b"k" * 100] * 400


async def test_a_topic_created_anew_under_the_name_starts_empty(store: Store) -> None:
    first = await store.create(copy_of(1, "t"))
    await append(store, first, [b"old"] * 5, producer=7)
    await store.drop(first)
    second = await store.create(copy_of(2, "t"))
    assert store.topic("t") is second
    assert await append(store, second, [b"new"], producer=7) == 0
    await wait_until(lambda: 1 not in store.by_id)
    assert store.topic("t") is second
