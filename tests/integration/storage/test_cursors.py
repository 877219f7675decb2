"""The table of cursors and its mirror in memory: alike whatever happens, and nothing counts from an older taking."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing
from typing import Any

import msgspec
import pytest

from pubsub.errors import (
    InvalidRequestError,
    PubsubError,
    ReadOnlyError,
    SubscriptionNotFoundError,
    SubscriptionTakenError,
)
from pubsub.protocol.messages import CopyState
from pubsub.storage import beside
from pubsub.storage import cursors as cursors_module
from pubsub.storage.cursors import Cursor, CursorTable, load_cursors
from pubsub.storage.store import Store
from tests.integration.storage.stores import append, copy_of, writer_held
from tests.waiting import wait_until

Row = tuple[int, str, str, int, int]


def rows_in_file(store: Store) -> set[Row]:
    with closing(sqlite3.connect(f"file:{store.path}?mode=ro", uri=True)) as connection:
        return set(connection.execute("SELECT topic_id, name, topic, position, generation FROM cursors"))


def rows_in_memory(table: CursorTable) -> set[Row]:
    return {(c.topic_id, c.name, c.topic, c.position, c.generation) for c in table.all()}


async def commit(table: CursorTable, cursor: Cursor, position: int, generation: int | None = None) -> None:
    await answer(
        lambda done: table.commit(
            cursor.topic_id,
            cursor.name,
            cursor.generation if generation is None else generation,
            position,
            done,
        )
    )


async def answer(ask: Any) -> None:
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: PubsubError | None) -> None:
        if error is None:
            answered.set_result(None)
        else:
            answered.set_exception(error)

    ask(done)
    await answered


def note(generation: int, position: int, name: str = "dash@bob") -> Cursor:
    return Cursor(topic_id=1, name=name, topic="t", position=position, generation=generation, updated_us=1)


async def test_a_cursor_is_made_where_it_is_first_taken_up_and_stays_there(store: Store) -> None:
    first = await store.cursors.take(1, "t", "dash", 5)
    assert first.position == 5
    generation = first.generation
    second = await store.cursors.take(1, "t", "dash", 9)
    assert second.position == 5
    assert second.generation > generation
    assert rows_in_file(store) == rows_in_memory(store.cursors)


async def test_commits_of_an_older_taking_change_nothing(store: Store) -> None:
    old = (await store.cursors.take(1, "t", "dash", 0)).generation
    cursor = await store.cursors.take(1, "t", "dash", 0)
    with pytest.raises(SubscriptionTakenError):
        await commit(store.cursors, cursor, 7, generation=old)
    await commit(store.cursors, cursor, 3)
    await commit(store.cursors, cursor, 2)
    assert [row[3] for row in rows_in_file(store)] == [3]


async def test_a_commit_that_a_taking_overtakes_in_the_queue_changes_nothing(store: Store) -> None:
    cursor = await store.cursors.take(1, "t", "dash", 0)
    generation = cursor.generation
    async with writer_held(store):
        taking = asyncio.create_task(store.cursors.take(1, "t", "dash", 0))
        await asyncio.sleep(0)  # it has been submitted, and not been committed
        committing = asyncio.create_task(commit(store.cursors, cursor, 7, generation=generation))
        await asyncio.sleep(0)
    with pytest.raises(SubscriptionTakenError):
        await committing
    assert (await taking).position == 0
    assert [row[3] for row in rows_in_file(store)] == [0]


async def test_of_two_who_take_at_once_the_later_has_it(store: Store) -> None:
    async with writer_held(store):
        takings = asyncio.gather(
            *(store.cursors.take(1, "t", "dash", n) for n in (4, 8)), return_exceptions=True
        )
        await asyncio.sleep(0)  # both have been submitted, for one commit
    results = await takings
    assert isinstance(results[0], SubscriptionTakenError)
    assert isinstance(results[1], Cursor)
    assert results[1].position == 4
    assert rows_in_file(store) == rows_in_memory(store.cursors)


async def test_a_reset_goes_anywhere_and_voids_who_had_it(store: Store) -> None:
    cursor = await store.cursors.take(1, "t", "dash", 9)
    generation = cursor.generation
    await store.cursors.reset(cursor, 2)
    with pytest.raises(SubscriptionTakenError):
        await commit(store.cursors, cursor, 10, generation=generation)
    assert rows_in_file(store) == rows_in_memory(store.cursors)
    assert store.cursors.floor(1) == 2


async def test_what_is_deleted_cannot_be_committed_and_begins_anew(store: Store) -> None:
    cursor = await store.cursors.take(1, "t", "dash", 9)
    await store.cursors.delete([cursor])
    with pytest.raises(SubscriptionNotFoundError):
        await commit(store.cursors, cursor, 10)
    assert rows_in_file(store) == set()
    assert store.cursors.floor(1) is None
    assert (await store.cursors.take(1, "t", "dash", 3)).position == 3


async def test_notes_are_ordered_by_generation_then_position(store: Store) -> None:
    for generation, position, expected in [
        (5, 10, 10),
        (5, 8, 10),  # late
        (5, 12, 12),
        (4, 99, 12),  # of an older taking
        (6, 3, 3),  # after a reset
        (5, 50, 3),
    ]:
        given = note(generation, position)
        await answer(lambda done, given=given: store.cursors.note(given, done))
        assert store.cursors.floor(1) == expected
        assert rows_in_file(store) == rows_in_memory(store.cursors)


async def test_the_floor_is_the_lowest_position_of_the_topic(store: Store) -> None:
    await store.cursors.take(1, "t", "a", 5)
    await store.cursors.take(1, "t", "b", 3)
    await store.cursors.take(2, "u", "a", 1)
    assert (store.cursors.floor(1), store.cursors.floor(2), store.cursors.floor(3)) == (3, 1, None)


async def test_cursors_are_there_after_a_restart_and_generations_go_on_rising(open_store: Any) -> None:
    store = await open_store()
    cursor = await store.cursors.take(1, "t", "dash", 5)
    await commit(store.cursors, cursor, 8)
    before, generation = rows_in_memory(store.cursors), cursor.generation
    await store.close()
    store = await open_store()
    assert rows_in_memory(store.cursors) == before == rows_in_file(store)
    assert (await store.cursors.take(1, "t", "dash", 0)).generation > generation


async def test_a_cursor_of_a_topic_of_the_same_name_before_goes_when_the_new_one_is_taken(
    store: Store,
) -> None:
    await store.cursors.take(1, "t", "dash", 5)
    await store.cursors.take(1, "t", "other", 5)
    await store.cursors.take(2, "t", "dash", 0)
    assert {row[:2] for row in rows_in_file(store)} == {(1, "other"), (2, "dash")}
    assert rows_in_file(store) == rows_in_memory(store.cursors)


async def test_dropping_a_topic_takes_its_cursors_along(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x"])
    await store.cursors.take(1, "t", "dash", 0)
    await store.cursors.take(2, "u", "dash", 0)
    await store.drop(topic)
    await wait_until(lambda: {row[0] for row in rows_in_file(store)} == {2})
    await wait_until(lambda: rows_in_file(store) == rows_in_memory(store.cursors))


async def test_a_file_that_cannot_be_written_changes_nothing_in_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = await store.cursors.take(1, "t", "dash", 5)
    before = rows_in_memory(store.cursors)
    monkeypatch.setattr(store.cursors, "_change", lambda _, done: done(ReadOnlyError("full")))
    for call in (
        store.cursors.take(1, "t", "dash", 0),
        store.cursors.take(1, "t", "new", 0),
        store.cursors.reset(cursor, 1),
        store.cursors.delete([cursor]),
        commit(store.cursors, cursor, 6),
        answer(lambda done: store.cursors.note(note(1, 1), done)),
    ):
        with pytest.raises(ReadOnlyError):
            await call
    assert rows_in_memory(store.cursors) == before == rows_in_file(store)


async def test_a_topic_has_room_for_so_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors_module, "CURSORS_OF_A_TOPIC", 1)
    await store.cursors.take(1, "t", "one", 0)
    await store.cursors.take(1, "t", "one", 0)
    await store.cursors.take(2, "u", "one", 0)
    with pytest.raises(InvalidRequestError, match="no more are allowed"):
        await store.cursors.take(1, "t", "two", 0)
    with pytest.raises(InvalidRequestError, match="no more are allowed"):
        await answer(lambda done: store.cursors.note(note(1, 1), done))


@pytest.mark.parametrize("seed", range(4))
async def test_file_and_memory_are_alike_after_anything_at_once(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    table, taken = store.cursors, list[Cursor]()

    async def do() -> None:
        topic_id, name = chance.choice([1, 2]), chance.choice(["a", "b"])
        held = table.find(topic_id, name)
        what = chance.choice(["take", "take", "commit", "commit", "commit", "reset", "delete", "note"])
        try:
            if what == "take":
                cursor = await table.take(topic_id, f"t{topic_id}", name, chance.randrange(100))
                taken.append(cursor)
            elif what == "commit" and taken:
                await commit(table, chance.choice(taken), chance.randrange(100))
            elif what == "note":
                await answer(lambda done: table.note(note(chance.randrange(3), chance.randrange(100)), done))
            elif held is not None and what == "reset":
                await table.reset(held, chance.randrange(100))
            elif held is not None:
                await table.delete([held])
        except (SubscriptionTakenError, SubscriptionNotFoundError):
            pass

    for _ in range(60):
        await asyncio.gather(*(do() for _ in range(chance.randrange(1, 6))))
        assert rows_in_file(store) == rows_in_memory(table)


async def test_a_cursor_that_was_reset_elsewhere_is_taken_over_though_it_lies_behind_our_own(
    store: Store,
) -> None:
    topic = await store.create(copy_of(1, "t"))
    await store.cursors.take(1, "t", "d", 1000)
    (ours,) = store.cursors.all()
    cells = msgspec.msgpack.encode(("t", 300, ours.generation + 1, ours.updated_us))
    row = ("cursors", '["d"]', cells)

    def take_over(cursor: sqlite3.Cursor) -> None:
        beside.store(cursor, topic.id, [row], reset=True)
        beside.take_over(cursor, topic.id)

    await store.step(take_over, 0)
    (kept,) = await store.look(load_cursors, 1)
    assert (kept.position, kept.generation) == (300, ours.generation + 1)


@pytest.mark.parametrize("synced", [True, False])
async def test_what_an_owner_kept_is_its_copys_once_another_peer_owns_the_topic(
    store: Store, synced: bool
) -> None:
    def role(name: str, owner: str, epoch: int) -> CopyState:
        both = ["alice", "bob"]
        return CopyState(
            id=1, topic="t", role=name, owner=owner, epoch=epoch, replicas=both, in_sync=both, version=1
        )

    topic = await store.create(role("owner", "alice", 1))
    for name in ("deleted", "kept", "mine", "mine@alice"):
        await store.cursors.take(1, "t", name, 7)
    await store.copies.take_role(topic, role("replica", "bob", 2))
    assert {name for _, name, *_ in rows_in_file(store)} == {"mine"}
    assert [cursor.name for cursor in store.cursors.all()] == ["mine"]
    if synced:
        (kept,) = [row for row in kept_of(store) if row[1] == '["kept"]']
        await store.step(lambda cursor: beside.store(cursor, 1, [kept], reset=True), 0)
    await store.copies.take_role(topic, role("owner", "alice", 3))
    names = {name for _, name, *_ in rows_in_file(store)}
    assert names == ({"mine", "kept"} if synced else {"mine", "mine@alice", "kept", "deleted"})


def kept_of(store: Store) -> list[tuple[str, str, bytes | None]]:
    """What a copy keeps of what its owner has besides messages."""
    with closing(sqlite3.connect(f"file:{store.path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT kind, row_key, cells FROM copied_state").fetchall()
