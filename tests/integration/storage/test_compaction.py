"""Compaction: of each key the latest message is kept, whatever comes in between."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pubsub.core.retention import Removal
from pubsub.storage import compaction, retention
from pubsub.storage.migrate import upgrade
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic
from tests.integration.storage.conftest import OpenStore
from tests.integration.storage.stores import append, beside, copy_of
from tests.integration.storage.test_retention import check_counted
from tests.waiting import wait_until

Message = tuple[int, str | None, bytes | None]
"""Offset, key and payload."""


def stored(store: Store, topic: Topic) -> list[Message]:
    query = "SELECT offset, key, payload FROM messages WHERE topic_id = ? ORDER BY offset"
    with beside(store.path) as connection:
        return connection.execute(query, (topic.id,)).fetchall()


async def publish(store: Store, topic: Topic, *messages: tuple[str | None, bytes | None]) -> None:
    keys, payloads = [key for key, _ in messages], [payload for _, payload in messages]
    await append(store, topic, payloads, keys=keys)  # type: ignore[arg-type]


async def compact_all(store: Store, topic: Topic, end: int = 2**60) -> None:
    while (compacted := await store.upkeep.compact(topic, end)) is not None and compacted.more:
        pass


@pytest.fixture
async def topic(store: Store) -> Topic:
    return await store.create(copy_of(1, "t", policy={"compact": True}))


async def test_of_each_key_the_latest_message_is_kept_and_offsets_stay(store: Store, topic: Topic) -> None:
    await publish(store, topic, ("a", b"1"), ("b", b"1"), ("a", b"2"), (None, b"x"), ("b", b"2"), ("c", b"1"))
    await compact_all(store, topic)
    assert stored(store, topic) == [(2, "a", b"2"), (3, None, b"x"), (4, "b", b"2"), (5, "c", b"1")]
    await publish(store, topic, ("a", b"3"), ("d", b"1"))
    await compact_all(store, topic)
    assert [offset for offset, _, _ in stored(store, topic)] == [3, 4, 5, 6, 7]
    assert (topic.first_offset, topic.next_offset, topic.compacted_to) == (0, 8, 8)
    check_counted(store, topic)


async def test_compaction_goes_on_after_a_restart_where_it_was(open_store: OpenStore) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    await publish(store, topic, ("a", b"1"), ("b", b"1"), ("a", b"2"))
    await compact_all(store, topic)
    await publish(store, topic, ("b", b"2"))
    await store.close()
    store = await open_store()
    topic = store.topic("t")
    assert topic.compacted_to == 3
    await compact_all(store, topic)
    assert stored(store, topic) == [(2, "a", b"2"), (3, "b", b"2")]
    check_counted(store, topic)


async def test_a_step_is_bounded_and_many_keys_are_compacted_in_many_steps(
    store: Store, topic: Topic
) -> None:
    for turn in range(3):
        await publish(store, topic, *[(f"key {n}", b"%d" % turn) for n in range(900)])
    steps = 1
    while (await store.upkeep.compact(topic, 2**60)).more:  # type: ignore[union-attr]
        assert topic.compacted_to == steps * compaction.STEP_ROWS
        steps += 1
    assert steps == 2700 // compaction.STEP_ROWS + 1
    assert stored(store, topic) == [(1800 + n, f"key {n}", b"2") for n in range(900)]
    check_counted(store, topic)


async def test_nothing_from_the_end_on_is_superseded_or_supersedes(store: Store, topic: Topic) -> None:
    await publish(store, topic, ("a", b"1"), ("a", b"2"), ("a", b"3"))
    await compact_all(store, topic, end=2)
    assert [offset for offset, _, _ in stored(store, topic)] == [1, 2]
    assert topic.compacted_to == 2
    await compact_all(store, topic)
    assert [offset for offset, _, _ in stored(store, topic)] == [2]


async def test_a_removed_key_is_kept_for_a_while_and_then_goes_altogether(store: Store, topic: Topic) -> None:
    await publish(store, topic, ("a", b"1"), ("b", b"1"), ("a", None), ("c", None), ("c", b"back"))
    await compact_all(store, topic)
    assert stored(store, topic) == [(1, "b", b"1"), (2, "a", None), (4, "c", b"back")]
    with beside(store.path) as connection:
        published_us = connection.execute("SELECT published_at FROM messages WHERE offset = 2").fetchone()[0]
    await store.upkeep.remove_keys(topic, published_us, end=5)
    assert len(stored(store, topic)) == 3
    await store.upkeep.remove_keys(topic, published_us + 1, end=2)
    assert len(stored(store, topic)) == 3, "a group has still to be given it"
    await store.upkeep.remove_keys(topic, published_us + 1, end=5)
    assert stored(store, topic) == [(1, "b", b"1"), (4, "c", b"back")]
    check_counted(store, topic)
    await publish(store, topic, ("a", b"again"))
    await compact_all(store, topic)
    assert stored(store, topic)[-1] == (5, "a", b"again")


async def test_what_retention_takes_of_a_compacted_topic_is_forgotten(store: Store, topic: Topic) -> None:
    await publish(store, topic, ("a", b"1"), ("b", b"1"), ("a", b"2"), ("c", b"1"))
    await compact_all(store, topic)
    await store.upkeep.trim(topic, Removal(below=3))
    with beside(store.path) as connection:
        assert connection.execute("SELECT key, offset FROM latest_keys").fetchall() == [("c", 3)]
    await publish(store, topic, ("a", b"3"))
    await compact_all(store, topic)
    assert stored(store, topic) == [(3, "c", b"1"), (4, "a", b"3")]
    check_counted(store, topic)


async def test_what_was_known_of_keys_is_forgotten_when_compaction_ends_and_found_again_when_it_is_back(
    store: Store, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction.forget_keys, "__defaults__", (1,))
    await publish(store, topic, ("a", b"1"), ("b", b"1"), ("c", b"1"))
    await compact_all(store, topic)
    assert (await store.upkeep.forget_keys(topic)).more  # type: ignore[union-attr]
    assert topic.compacted_to == -1
    await publish(store, topic, ("a", b"2"), ("b", b"2"), ("c", b"2"))
    await compact_all(store, topic)  # compaction is back before all was forgotten
    assert [offset for offset, _, _ in stored(store, topic)] == [3, 4, 5]
    while (await store.upkeep.forget_keys(topic)).more:  # type: ignore[union-attr]
        pass
    assert topic.compacted_to == 0
    with beside(store.path) as connection:
        assert connection.execute("SELECT count(*) FROM latest_keys").fetchone() == (0,)


async def test_readers_pass_over_what_is_not_there(store: Store, topic: Topic) -> None:
    await publish(store, topic, ("a", b"1"), ("b", b"1"), ("a", b"2"), ("b", b"2"), ("c", b"1"), ("c", None))
    await compact_all(store, topic)
    batch = await store.read(topic, 0, 100)
    assert batch is not None
    assert (batch.first_offset, batch.offsets, batch.payloads) == (2, [2, 3, 5], [b"2", b"2", None])
    batch = await store.read(topic, 4, 100)
    assert batch is not None
    assert (batch.first_offset, batch.payloads) == (5, [None])
    with beside(store.path) as connection:
        published_us = connection.execute("SELECT published_at FROM messages WHERE offset = 5").fetchone()[0]
    assert await store.offset_at(topic, 0) == 2
    assert await store.offset_at(topic, published_us + 1) == 6
    assert await store.count_from(topic, 0) == 3
    assert await store.count_from(topic, 3) == 2


async def test_dropping_a_compacted_topic_leaves_nothing(store: Store, topic: Topic) -> None:
    await publish(store, topic, ("a", b"1"), ("b", None))
    await compact_all(store, topic)
    await store.drop(topic)
    await wait_until(lambda: topic.id not in store.by_id)
    with beside(store.path) as connection:
        assert connection.execute("SELECT count(*) FROM latest_keys").fetchone() == (0,)


keys = st.none() | st.sampled_from("abcd")


class CompactedLog(RuleBasedStateMachine):
    """Whatever is done in whatever order: what is kept is what a dict would keep."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        upgrade(Path(self.directory.name) / "peer.db")
        self.connection = sqlite3.connect(Path(self.directory.name) / "peer.db", isolation_level=None)
        self.cursor = self.connection.cursor()
        self.cursor.execute("PRAGMA synchronous = OFF")
        self.cursor.execute(
            "INSERT INTO topics VALUES "
            "(1, 't', 'owner', 'a', 1, 0, 0, 0, '{}', 1, NULL, 0, 0, 0, 0, NULL, NULL, 0, '', 1, 0, NULL, NULL)"
        )
        self.log: list[tuple[str | None, bool]] = []
        """Key of each message ever published, and whether it removes it."""
        self.present: set[int] = set()
        """Offsets that must be there: not superseded as far as compaction has got, not trimmed."""
        self.compacted_to = 0
        self.trimmed_to = 0

    @rule(messages=st.lists(st.tuples(keys, st.booleans()), min_size=1, max_size=6))
    def publish(self, messages: list[tuple[str | None, bool]]) -> None:
        for key, removes in messages:
            removes = removes and key is not None
            offset = len(self.log)
            self.log.append((key, removes))
            self.present.add(offset)
            payload = None if removes else b"xy"
            self.cursor.execute(
                "INSERT INTO messages VALUES (1, ?, ?, ?, NULL, ?, NULL)", (offset, offset, key, payload)
            )
            self.cursor.execute(
                "UPDATE topics SET next_offset = ?1, committed = ?1, messages = messages + 1, bytes = bytes + ?2",
                (offset + 1, len(payload or b"") + len(key or "")),
            )

    @rule(rows=st.integers(1, 5), short_of=st.integers(0, 4))
    def compact(self, rows: int, short_of: int) -> None:
        end = len(self.log) - short_of
        done = compaction.compact(self.cursor, 1, end, rows=rows)
        assert done is not None
        assert done.compacted_to >= self.compacted_to
        assert done.compacted_to <= max(end, self.compacted_to)
        self.compacted_to = done.compacted_to
        latest = {
            key: offset for offset, (key, _) in enumerate(self.log[: self.compacted_to]) if key is not None
        }
        self.present -= {
            offset
            for offset, (key, _) in enumerate(self.log[: self.compacted_to])
            if key is not None and latest[key] != offset
        }

    @rule(before=st.integers(0, 60), end=st.integers(0, 60), rows=st.integers(1, 5))
    def remove_keys(self, before: int, end: int, rows: int) -> None:
        gone = sorted(
            offset
            for offset in self.present
            if self.log[offset][1] and offset < before and offset < end and offset < self.compacted_to
        )[:rows]
        compaction.remove_keys(self.cursor, 1, before, end, rows=rows)
        self.present -= set(gone)

    @rule(below=st.integers(0, 60), rows=st.integers(1, 5))
    def trim(self, below: int, rows: int) -> None:
        gone = sorted(offset for offset in self.present if offset < below)[:rows]
        trimmed = retention.trim(self.cursor, 1, Removal(below=below), rows=rows)
        assert trimmed is not None
        assert trimmed.removed == len(gone)
        self.present -= set(gone)

    @rule(rows=st.integers(1, 2))
    def switch_off_and_on(self, rows: int) -> None:
        done = compaction.forget_keys(self.cursor, 1, rows=rows)
        assert done is not None
        self.compacted_to = 0  # it starts anew; what is superseded already stays so

    @invariant()
    def what_is_kept_is_counted(self) -> None:
        found = self.cursor.execute("SELECT offset FROM messages ORDER BY offset").fetchall()
        assert [offset for (offset,) in found] == sorted(self.present)
        size_bytes = sum(
            len(self.log[offset][0] or "") + (0 if self.log[offset][1] else 2) for offset in self.present
        )
        counted = self.cursor.execute("SELECT messages, bytes FROM topics").fetchone()
        assert counted == (len(self.present), size_bytes)

    def teardown(self) -> None:
        self.connection.close()
        self.directory.cleanup()


CompactedLog.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_whatever_happens_in_whatever_order_the_latest_of_each_key_is_kept = CompactedLog.TestCase
