"""Trimming a log in steps: what goes, what is counted, what a restart and a failure find."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pubsub.core.retention import Removal, count_removed
from pubsub.errors import InvalidRequestError, PubsubError
from pubsub.storage import retention
from pubsub.storage.migrate import upgrade
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic
from tests.integration.storage.conftest import OpenStore
from tests.integration.storage.stores import append, ask, beside, commits_in_log, copy_of, submit, writer_held
from tests.migrations.test_migrations import migrate_to

SIZES = (
    "SELECT count(*), coalesce(sum(coalesce(length(payload), 0) + coalesce(length(CAST(key AS BLOB)), 0) "
    "+ coalesce(length(CAST(headers AS BLOB)), 0)), 0) FROM messages WHERE topic_id = ?"
)


def row(path: Path, topic_id: int = 1) -> dict[str, int]:
    with beside(path) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT * FROM topics WHERE id = ?", (topic_id,)).fetchone()
        return {name: found[name] for name in ("first_offset", "next_offset", "messages", "bytes")}


def check_counted(store: Store, topic: Topic) -> None:
    """The topic in memory, its row, and its messages say the same."""
    with beside(store.path) as connection:
        assert connection.execute(SIZES, (topic.id,)).fetchone() == (topic.messages, topic.size_bytes)
        lowest = connection.execute(
            "SELECT min(offset) FROM messages WHERE topic_id = ?", (topic.id,)
        ).fetchone()[0]
    assert lowest is None or lowest >= topic.first_offset
    assert row(store.path, topic.id) == {
        "first_offset": topic.first_offset,
        "next_offset": topic.next_offset,
        "messages": topic.messages,
        "bytes": topic.size_bytes,
    }


async def trim_all(store: Store, topic: Topic, removal: Removal) -> int:
    """Step after step until nothing goes any more; how many steps did something."""
    steps = 0
    while (trimmed := await store.upkeep.trim(topic, removal)) is not None and trimmed.removed:
        steps += 1
        assert trimmed.removed <= retention.STEP_ROWS
    return steps


async def test_a_topic_counts_its_messages_and_their_size_in_utf8(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"12345", b""], keys=["schlüssel\x00x", None], headers=[None, '{"a":"€"}'])
    assert (topic.messages, topic.size_bytes) == (2, 5 + 12 + 11)
    await append(store, topic, [b"x" * 100] * 1000)
    check_counted(store, topic)


@pytest.mark.parametrize(
    ("removal", "first_kept"),
    [
        (Removal(below=3000), 3000),
        (Removal(keep_messages=1), 4999),
        (Removal(keep_bytes=10_050), 4900),
        (Removal(keep_bytes=99), 5000),
        (Removal(), 0),
        (Removal(below=10_000), 5000),
        (Removal(below=700, keep_messages=4500, keep_bytes=450_000), 700),
    ],
)
async def test_what_may_go_goes_in_bounded_steps(store: Store, removal: Removal, first_kept: int) -> None:
    topic = await store.create(copy_of(1, "t"))
    other = await store.create(copy_of(2, "other"))
    for _ in range(5):
        await append(store, topic, [b"x" * 100] * 1000)
    await append(store, other, [b"y"] * 10)
    assert await trim_all(store, topic, removal) == -(-first_kept // retention.STEP_ROWS)
    assert (topic.first_offset, topic.next_offset, topic.messages) == (first_kept, 5000, 5000 - first_kept)
    check_counted(store, topic)
    check_counted(store, other)
    assert other.messages == 10


async def test_messages_go_by_the_time_at_which_they_were_stored(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    for _ in range(3):
        await append(store, topic, [b"x"] * 10)
    times = [time_us for (time_us,) in all_rows(store.path, "SELECT DISTINCT published_at FROM messages")]
    assert len(times) == 3
    trimmed = await store.upkeep.trim(topic, Removal(before_us=times[1]))
    assert trimmed is not None
    assert (trimmed.removed, trimmed.first_offset, trimmed.oldest_us) == (10, 10, times[1])
    assert await trim_all(store, topic, Removal(before_us=times[2] + 1)) == 1
    assert (await store.upkeep.trim(topic, Removal(before_us=times[2] + 1))).oldest_us is None  # type: ignore[union-attr]
    assert (topic.first_offset, topic.messages) == (30, 0)


def all_rows(path: Path, query: str) -> list[Any]:
    with beside(path) as connection:
        return connection.execute(query).fetchall()


async def test_large_messages_go_a_few_at_a_time(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x" * (retention.STEP_BYTES * 2 // 5)] * 4)
    await append(store, topic, [b"x" * (retention.STEP_BYTES * 3)])
    removed = []
    while (trimmed := await store.upkeep.trim(topic, Removal(below=5))) is not None and trimmed.removed:
        removed.append(trimmed.removed)
    assert removed == [2, 2, 1]
    check_counted(store, topic)


async def test_publishing_goes_on_at_the_next_offset_when_all_is_gone(open_store: OpenStore) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x"] * 10, producer=5)
    await trim_all(store, topic, Removal(below=10))
    assert await append(store, topic, [b"x"], producer=5, sequence=10) == 10
    await trim_all(store, topic, Removal(below=11))
    await store.close()
    store = await open_store()
    topic = store.topic("t")
    assert (topic.first_offset, topic.next_offset, topic.messages, topic.size_bytes) == (11, 11, 0, 0)
    assert await append(store, topic, [b"x"], producer=5, sequence=11) == 11
    assert await submit(store, topic, [b"x"], producer=5, sequence=10) == (10, True)
    check_counted(store, topic)


async def test_a_restart_in_the_middle_finds_a_whole_topic_and_goes_on(open_store: OpenStore) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x" * 10] * 3000)
    await store.upkeep.trim(topic, Removal(below=2000))
    first = topic.first_offset
    assert 0 < first < 2000
    await store.close()
    store = await open_store()
    topic = store.topic("t")
    assert (topic.first_offset, topic.messages) == (first, 3000 - first)
    check_counted(store, topic)
    await trim_all(store, topic, Removal(below=2000))
    assert topic.first_offset == 2000
    check_counted(store, topic)


async def test_a_step_shares_the_commit_of_those_who_publish(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x"] * 10)
    before = commits_in_log(store.path)
    async with writer_held(store):
        published = submit(store, topic, [b"y"])
        trimming = asyncio.ensure_future(store.upkeep.trim(topic, Removal(below=5)))
        await asyncio.sleep(0)
        later = submit(store, topic, [b"z"])
    assert (await published)[0] == 10
    assert (await later)[0] == 11
    assert (await trimming).first_offset == 5  # type: ignore[union-attr]
    assert commits_in_log(store.path) == before + 1
    check_counted(store, topic)


@pytest.mark.parametrize(
    "error", [ValueError("a fault"), InvalidRequestError("no"), sqlite3.IntegrityError("no")]
)
async def test_a_step_that_fails_does_nothing_and_fails_nobody_else(store: Store, error: Exception) -> None:
    topic = await store.create(copy_of(1, "t"))

    def fail(cursor: sqlite3.Cursor) -> None:
        cursor.execute("DELETE FROM messages")
        raise error

    async with writer_held(store):
        published = submit(store, topic, [b"y"])
        step = asyncio.ensure_future(store.step(fail, 0))
        await asyncio.sleep(0)
    assert (await published)[0] == 0
    with pytest.raises(PubsubError):
        await step
    check_counted(store, topic)
    assert (topic.messages, store.fault) == (1, None)


async def test_nothing_is_trimmed_of_a_topic_that_is_served_no_more(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x"] * 10)
    await store.set_aside(topic, "a test")
    assert await store.upkeep.trim(topic, Removal(below=10)) is None
    assert await store.upkeep.compact(topic, 10) is None
    assert ask(store.path, "SELECT count(*) FROM messages") == 10


async def test_a_topic_that_is_trimmed_while_it_is_published_to_counts_right(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    draw = random.Random(7)
    kept_bytes = 50_000

    async def publish() -> None:
        for _ in range(300):
            await append(store, topic, [b"x" * draw.randint(1, 300)] * draw.randint(1, 40))

    publishing = asyncio.create_task(publish())
    while not publishing.done():
        await store.upkeep.trim(topic, Removal(keep_bytes=kept_bytes))
    await publishing
    await trim_all(store, topic, Removal(keep_bytes=kept_bytes))
    assert kept_bytes - 300 < topic.size_bytes <= kept_bytes
    check_counted(store, topic)


rows = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 50)), max_size=25)
removals = st.builds(
    Removal,
    below=st.integers(0, 60),
    before_us=st.integers(0, 40),
    keep_messages=st.none() | st.integers(0, 30),
    keep_bytes=st.none() | st.integers(0, 1000),
)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    upgrade(tmp_path / "peer.db")
    connection = sqlite3.connect(tmp_path / "peer.db", isolation_level=None)
    yield connection.cursor()
    connection.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=rows, removal=removals, bounds=st.tuples(st.integers(1, 30), st.integers(1, 500)))
def test_the_rule_in_sql_is_the_rule_in_python(
    file: sqlite3.Cursor,
    steps: list[tuple[int, int, int]],
    removal: Removal,
    bounds: tuple[int, int],
) -> None:
    log, offset, time_us = [], 0, 1
    for gap, later, size in steps:
        offset, time_us = offset + gap, time_us + later
        log.append((offset, time_us, size))
    file.execute("BEGIN")
    file.execute(
        "INSERT INTO topics VALUES "
        "(1, 't', 'owner', 'a', 1, 0, ?, ?, '{}', 1, NULL, ?, ?, 0, 0, NULL, NULL, 0, '', 1, 0, NULL, NULL)",
        (offset + 1, offset + 1, len(log), sum(size for _, _, size in log)),
    )
    file.executemany(
        "INSERT INTO messages VALUES (1, ?, ?, NULL, NULL, zeroblob(?), NULL)",
        [(at, us, size) for at, us, size in log],
    )
    gone = count_removed(removal, log)
    removed = 0
    while (trimmed := retention.trim(file, 1, removal, *bounds)).removed:  # type: ignore[union-attr]
        part = log[removed : removed + trimmed.removed]  # type: ignore[union-attr]
        assert len(part) <= bounds[0]
        assert len(part) == 1 or sum(size for _, _, size in part) <= bounds[1]
        removed += len(part)
    assert removed == gone
    assert file.execute("SELECT offset FROM messages ORDER BY offset").fetchall() == [
        (at,) for at, _, _ in log[gone:]
    ]
    assert file.execute("SELECT messages, bytes, first_offset FROM topics").fetchone() == (
        len(log) - gone,
        sum(size for _, _, size in log[gone:]),
        log[gone - 1][0] + 1 if gone else 0,
    )
    file.execute("ROLLBACK")


# What else is kept for a while


async def test_message_ids_are_forgotten_in_steps_and_only_old_ones(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    many = retention.STEP_ROWS + 10
    await store.step(
        lambda cursor: cursor.executemany(
            "INSERT INTO message_ids VALUES (?, ?, 0, ?)",
            [(topic.id, f"old {n}", n) for n in range(many)] + [(topic.id, "new", 10**9), (77, "other", 5)],
        ),
        0,
    )
    assert await store.upkeep.oldest_ids() == [(1, 0), (77, 5)]
    assert await store.upkeep.forget_ids(1, many)
    assert not await store.upkeep.forget_ids(1, many)
    assert all_rows(store.path, "SELECT message_id FROM message_ids ORDER BY 1") == [("new",), ("other",)]


async def test_no_ids_are_no_topics(store: Store) -> None:
    assert await store.upkeep.oldest_ids() == []


async def test_producers_that_were_silent_for_long_are_looked_for_portion_by_portion(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP_ROWS", 10)
    await store.step(
        lambda cursor: cursor.executemany(
            "INSERT INTO producers VALUES (?, ?, 0, '[]', ?)",
            [(topic, n, n % 2) for topic in (1, 2) for n in range(1, 26)],
        ),
        0,
    )
    after: tuple[int, int] | None = (0, 0)
    portions = 0
    while after is not None:
        after = await store.upkeep.forget_producers(after, 1)
        portions += 1
    assert portions == 6
    assert all_rows(store.path, "SELECT DISTINCT updated_at FROM producers") == [(1,)]


# The file


async def test_pages_are_given_back_and_the_file_shrinks(open_store: OpenStore) -> None:
    store = await open_store(checkpoint_bytes=1_000_000)
    topic = await store.create(copy_of(1, "t"))
    for _ in range(20):
        await append(store, topic, [bytes(1000)] * 1000)
    await trim_all(store, topic, Removal(keep_messages=100))
    pages = await store.upkeep.count_pages()
    assert pages.free > pages.total * 3 // 4
    left = pages.free
    while given := await store.upkeep.give_back(left):
        assert given <= 64
        left -= given
    assert (await store.upkeep.count_pages()).free == left == 0
    await store.close()
    assert store.path.stat().st_size < 1_000_000
    assert not store.path.with_name("peer.db-wal").exists()
    store = await open_store()
    assert store.topic("t").messages == 100


async def test_a_log_that_a_reader_made_long_is_cut_to_its_size_when_it_is_started_over(
    open_store: OpenStore,
) -> None:
    store = await open_store(checkpoint_bytes=500_000)
    topic = await store.create(copy_of(1, "t"))
    log = store.path.with_name("peer.db-wal")
    with beside(store.path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM messages").fetchone()
        for _ in range(8):
            await append(store, topic, [bytes(1000)] * 1000)
        assert log.stat().st_size > 4_000_000
        reader.execute("ROLLBACK")

    def small(until: float) -> bool:
        return log.stat().st_size <= 2 * 500_000 or time.monotonic() > until

    until = time.monotonic() + 20
    while not small(until):  # each publish may be the one that starts the log over
        await append(store, topic, [bytes(1000)] * 100)
    assert log.stat().st_size <= 2 * 500_000


def test_a_file_of_the_first_schema_is_counted_when_it_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "peer.db"
    migrate_to(path, "0001")
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO topics VALUES (1, 't', 'owner', 'a', 1, 0, 3, 3, '{}', 1, NULL)")
        connection.execute("INSERT INTO topics VALUES (2, 'u', 'owner', 'a', 1, 0, 0, 0, '{}', 1, 'aside')")
        connection.execute("INSERT INTO messages VALUES (1, 0, 1, 'ä', NULL, x'0102')")
        connection.execute("INSERT INTO messages VALUES (1, 1, 1, NULL, '{}', NULL)")
    connection.close()
    upgrade(path)
    assert all_rows(path, "SELECT id, set_aside, messages, bytes, compacted_to FROM topics ORDER BY id") == [
        (1, None, 2, 6, 0),
        (2, "aside", 0, 0, 0),
    ]
    assert all_rows(path, "SELECT count(*) FROM topic_messages") == [(2,)]
