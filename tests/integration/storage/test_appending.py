"""Appending: offsets, order, groups, and an answer only once it is on disk."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pubsub.config import StorageSettings
from pubsub.errors import ClosedError, InternalError, NotOwnerError, ReadOnlyError
from pubsub.storage import appending
from pubsub.storage.database import writer_engine
from pubsub.storage.groups import create_group
from pubsub.storage.store import Store
from pubsub.storage.work import Append, Committed, Job
from pubsub.storage.writer import SMALL_BYTES, Writer
from tests.integration.storage.stores import (
    append,
    ask,
    beside,
    commits_in_log,
    copy_of,
    read_all,
    submit,
    writer_held,
)
from tests.waiting import wait_until


async def test_offsets_are_dense_in_order_of_arrival(store: Store) -> None:
    topics = [await store.create(copy_of(n, f"t{n}")) for n in (1, 2)]
    expected: dict[int, list[bytes | None]] = {1: [], 2: []}
    answers = []
    for number in range(200):
        topic = topics[number % 3 % 2]
        payloads = [b"%d.%d" % (number, part) for part in range(number % 5 + 1)]
        answers.append((len(expected[topic.id]), submit(store, topic, payloads)))
        expected[topic.id] += payloads
    for offset, answer in answers:
        assert await answer == (offset, False)
    for topic in topics:
        assert await read_all(store, topic) == expected[topic.id]
        assert topic.next_offset == topic.committed == len(expected[topic.id])


async def test_what_arrives_while_a_commit_runs_shares_the_next_one(store: Store) -> None:
    topics = [await store.create(copy_of(n, f"t{n}")) for n in (1, 2)]
    told: list[tuple[int, int]] = []
    store.on_append = lambda topic, appended: told.append((topic.id, len(appended.payloads)))
    before = commits_in_log(store.path)
    async with writer_held(store):
        answers = [submit(store, topics[n % 2], [b"x"]) for n in range(100)]
    await asyncio.gather(*answers)
    assert commits_in_log(store.path) == before + 1  # holding the writer changed nothing, so it wrote nothing
    assert told == [(1, 50), (2, 50)]


async def test_a_group_is_bounded_in_bytes(open_store: Any) -> None:
    store = await open_store(group_bytes=10_000)
    topic = await store.create(copy_of(1, "t"))
    before = commits_in_log(store.path)
    async with writer_held(store):
        answers = [submit(store, topic, [b"x" * 5_000]) for _ in range(10)]
    await asyncio.gather(*answers)
    assert commits_in_log(store.path) == before + 5


async def test_at_the_moment_of_the_answer_another_connection_sees_the_message(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    seen: list[tuple[int, bool]] = []
    all_answered = asyncio.get_running_loop().create_future()

    def done(_: Append, first_offset: int, duplicate: bool, error: Any) -> None:
        found = ask(
            store.path, "SELECT count(*) FROM messages WHERE topic_id = 1 AND offset = ?", first_offset
        )
        seen.append((first_offset, found == 1))
        if len(seen) == 20:
            all_answered.set_result(None)

    for number in range(20):
        store.append(Append(topic.id, 1, 0, 0, None, None, [b"%d" % number], 1, done))
    await all_answered
    assert seen == [(number, True) for number in range(20)]


async def test_the_writer_syncs_every_commit_and_checkpoints_only_itself(store: Store) -> None:
    def settings(connection: Any) -> list[Any]:
        names = ("synchronous", "wal_autocheckpoint", "journal_mode", "mmap_size")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert await store.change_file(settings) == [2, 0, "wal", 0]  # 2 is FULL: an fsync in each commit


async def test_keys_headers_and_payloads_of_mixed_appends_stay_with_their_messages(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    async with writer_held(store):
        answers = [
            submit(store, topic, [b"a", b"b"]),
            submit(store, topic, [b"c", b"d"], keys=["k", None]),
            submit(store, topic, [b""], headers=['{"x":"y"}']),
            submit(store, topic, [b"e"], keys=[""], headers=[None]),
        ]
    await asyncio.gather(*answers)
    batch = await store.read(topic, 0, 100)
    assert batch is not None
    assert batch.payloads == [b"a", b"b", b"c", b"d", b"", b"e"]
    assert batch.keys == [None, None, "k", None, None, ""]
    assert batch.headers == [None, None, None, None, '{"x":"y"}', None]


async def test_times_never_fall_even_when_the_clock_steps_back_or_the_peer_restarts(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(us=1_000_000)
    monkeypatch.setattr(appending, "time", SimpleNamespace(time_ns=lambda: clock.us * 1000))
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    for clock.us in (1_000_000, 2_000_000, 500_000):
        await append(store, topic, [b"x"])
    await store.close()
    store = await open_store()
    topic = store.topic("t")
    for clock.us in (100_000, 3_000_000):
        await append(store, topic, [b"x"])
    batch = await store.read(topic, 0, 100)
    assert batch is not None
    assert batch.published_us == [1_000_000, 2_000_000, 2_000_000, 2_000_000, 3_000_000]


# Ownership


async def test_a_stale_epoch_stores_nothing_while_other_topics_of_the_group_are_stored(store: Store) -> None:
    stale, good = [await store.create(copy_of(n, f"t{n}", epoch=5)) for n in (1, 2)]
    async with writer_held(store):
        refused = [submit(store, stale, [b"no"], epoch=4, producer=9, sequence=n) for n in (0, 1)]
        stored = submit(store, good, [b"yes"])
    assert await stored == (0, False)
    for answer in refused:
        with pytest.raises(NotOwnerError):
            await answer
    assert await read_all(store, stale) == []
    assert stale.next_offset == 0
    # Nothing of the producer was remembered either.
    assert await submit(store, stale, [b"first"], producer=9, sequence=0) == (0, False)


async def test_after_a_change_of_epoch_only_the_appends_of_the_new_one_are_stored(store: Store) -> None:
    topic = await store.create(copy_of(1, "t", epoch=1))
    async with writer_held(store):
        before = submit(store, topic, [b"before"], epoch=1)
        changing = asyncio.create_task(
            store.change_file(lambda c: c.exec_driver_sql("UPDATE topics SET epoch = 2").close()),
            name="new epoch",
        )
        await asyncio.sleep(0)  # lets the task submit its change
        late = submit(store, topic, [b"late"], epoch=1)
        after = submit(store, topic, [b"after"], epoch=2)
    await changing
    assert await before == (0, False)
    with pytest.raises(NotOwnerError):
        await late
    assert await after == (1, False)
    assert await read_all(store, topic) == [b"before", b"after"]


async def test_a_topic_set_aside_or_unknown_takes_nothing_not_even_a_duplicate(store: Store) -> None:
    topic, other = [await store.create(copy_of(n, f"t{n}")) for n in (1, 2)]
    await append(store, topic, [b"kept"], producer=9)
    await store.set_aside(topic, "another has the name")
    ghost = await store.create(copy_of(3, "ghost"))
    await store.change_file(lambda c: c.exec_driver_sql("DELETE FROM topics WHERE id = 3").close())
    async with writer_held(store):
        refused = [
            submit(store, topic, [b"no"]),
            submit(store, topic, [b"kept"], producer=9),
            submit(store, ghost, [b"no"]),
        ]
        stored = submit(store, other, [b"yes"])
    assert await stored == (0, False)
    for answer in refused:
        with pytest.raises(NotOwnerError):
            await answer
    assert ask(store.path, "SELECT group_concat(payload) FROM messages") in ("kept,yes", b"kept,yes")
    assert "t1" not in store.topics
    assert store.by_id[1].set_aside == "another has the name"


async def test_only_duplicates_of_a_topic_set_aside_are_refused_too(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"kept"], producer=9)
    await store.set_aside(topic, "why")
    with pytest.raises(NotOwnerError):
        await submit(store, topic, [b"kept"], producer=9)


# Topics


async def test_creating_twice_changes_nothing(store: Store) -> None:
    first, second = await asyncio.gather(store.create(copy_of(1, "t")), store.create(copy_of(1, "t")))
    assert first is second
    await append(store, first, [b"x"])
    assert await store.create(copy_of(1, "t")) is first
    assert first.next_offset == 1
    assert ask(store.path, "SELECT count(*) FROM topics") == 1


async def test_topics_come_back_as_they_were_and_what_is_set_aside_stays_so(open_store: Any) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t", epoch=3, created_us=17, policy={"keep": {"days": 1}}))
    await store.set_aside(await store.create(copy_of(2, "aside")), "why")
    await append(store, topic, [b"x"] * 3)
    identity = store.node_id
    await store.close()
    store = await open_store()
    again = store.topic("t")
    assert (again.id, again.epoch, again.next_offset, again.committed) == (1, 3, 3, 3)
    assert (again.created_us, again.policy) == (17, {"keep": {"days": 1}})
    assert set(store.topics) == {"t"}
    assert store.by_id[2].set_aside == "why"
    assert store.incarnation == f"{identity}.2"
    assert await append(store, again, [b"y"]) == 3


async def test_messages_of_an_unknown_topic_are_never_deleted(open_store: Any) -> None:
    store = await open_store()
    dropped = await store.create(copy_of(1, "t"))
    await append(store, dropped, [b"x"] * 10)
    path = store.path
    await store.close()
    with beside(path, "rw") as connection:
        connection.executemany(
            "INSERT INTO messages VALUES (99, ?, 0, NULL, NULL, x'00', NULL)", [(n,) for n in range(5)]
        )
    for _ in range(2):
        store = await open_store()
        if 1 in store.by_id:
            await store.drop(store.by_id[1])
        await store.close()
    assert ask(path, "SELECT count(*) FROM messages WHERE topic_id = 99") == 5


# Everything is answered


async def test_room_is_made_known_once_the_queue_is_below_its_bound(open_store: Any) -> None:
    store = await open_store(queue_bytes=1_000)
    topic = await store.create(copy_of(1, "t"))
    room = asyncio.Event()
    async with writer_held(store):
        answers = [submit(store, topic, [b"x" * 600]) for _ in range(2)]
        assert store.full
        store.when_room(room.set)
    await asyncio.wait_for(room.wait(), 5)
    await asyncio.gather(*answers)
    assert not store.full
    assert store.queued_bytes == 0


async def test_a_fault_in_delivery_does_not_keep_a_publisher_from_being_answered(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def broken(*_: Any) -> None:
        raise RuntimeError("delivery is broken")

    store.on_append = broken
    assert await append(store, topic, [b"x"]) == 0
    assert store.queued_bytes == 0
    assert [str(context["exception"]) for context in reported] == ["delivery is broken"]


async def test_an_append_that_cannot_be_written_down_fails_and_the_next_one_works(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await store.create(copy_of(1, "t"))
    with pytest.raises(InternalError):
        await append(
            store, topic, [b"x"], keys=["\ud800"]
        )  # no UTF-8: check_key refuses it before it gets here
    assert "a transaction on" in caplog.text
    assert store.fault is None
    assert await append(store, topic, [b"x"], producer=1) == 0


@pytest.mark.parametrize("size_bytes", [1, 2 * SMALL_BYTES], ids=["event loop", "thread"])
async def test_a_change_that_cannot_be_stored_does_no_harm_to_what_shares_its_commit(
    store: Store, size_bytes: int
) -> None:
    topic = await store.create(copy_of(1, "t"))
    told: list[Any] = []
    insert = create_group(topic.id, "g", 0, {}, 0)
    first = submit(store, topic, [b"x" * size_bytes])
    store.change(insert, told.append)
    store.change(insert, told.append)
    second = submit(store, topic, [b"y"])
    assert [await first, await second] == [(0, False), (1, False)]
    await wait_until(lambda: len(told) == 2)
    assert told[0] is None
    assert isinstance(told[1], InternalError)
    assert await read_all(store, topic) == [b"x" * size_bytes, b"y"]
    assert store.fault is None


async def test_a_writer_that_cannot_open_its_file_answers_with_the_error(tmp_path: Any) -> None:
    answers: asyncio.Queue[Any] = asyncio.Queue()
    engine = writer_engine(tmp_path)  # a directory

    def committed(outcome: Committed) -> None:
        for work, *_, error in outcome.answers:
            work.done(work, 0, False, error)

    writer = Writer(engine, tmp_path, StorageSettings(), committed)
    writer.submit(Append(1, 1, 0, 0, None, None, [b"x"], 1, lambda *answer: answers.put_nowait(answer[-1])))
    writer.submit(Job(lambda connection: None, lambda result, error: answers.put_nowait(error)))
    for _ in range(2):
        assert "unable to open" in str(await asyncio.wait_for(answers.get(), 5))
    await writer.stop()
    engine.dispose()


async def test_what_comes_after_closing_is_refused_and_what_came_before_is_stored(open_store: Any) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    before = [submit(store, topic, [b"%d" % n]) for n in range(50)]
    closing = asyncio.create_task(store.close(), name="close")
    await asyncio.sleep(0)  # lets closing begin
    after = submit(store, topic, [b"late"])
    await closing
    await store.close()
    assert [await answer for answer in before] == [(n, False) for n in range(50)]
    for refused in (after, store.create(copy_of(2, "u")), store.read(topic, 0, 1)):
        with pytest.raises(ClosedError):
            await refused
    store = await open_store()
    assert len(await read_all(store, store.topic("t"))) == 50


async def test_another_writer_on_the_file_makes_appends_fail_and_not_hang(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pubsub.storage.database.BUSY_TIMEOUT_SECONDS", 0.05)
    store = await open_store(probe_seconds=0.02)
    topic = await store.create(copy_of(1, "t"))
    with beside(store.path, "rw") as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        with pytest.raises(ReadOnlyError, match="locked"):
            await append(store, topic, [b"x"])
        assert "locked" in (store.fault or "")
        intruder.execute("ROLLBACK")
    assert await append(store, topic, [b"x"]) == 0
    assert store.fault is None


# The write-ahead log


async def test_readers_that_never_pause_do_not_let_the_log_grow_without_bound(open_store: Any) -> None:
    store = await open_store(checkpoint_bytes=256 * 1024)
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x" * 1000] * 500)
    stop = asyncio.Event()

    async def read_on() -> None:
        position = 0
        while not stop.is_set():
            batch = await store.read(topic, position, 1000)
            position = 0 if batch is None else batch.first_offset + len(batch.payloads)

    readers = [asyncio.create_task(read_on(), name=f"reader {n}") for n in range(4)]
    largest = 0
    for _ in range(100):
        await append(store, topic, [b"x" * 1000] * 250)
        largest = max(largest, store.path.with_name("peer.db-wal").stat().st_size)
    stop.set()
    await asyncio.gather(*readers)
    assert largest < 8 * 1024 * 1024  # of 25 MB written; some of it the log has from the start


async def test_somebody_who_reads_for_long_does_not_stop_publishing(open_store: Any) -> None:
    store = await open_store(checkpoint_bytes=64 * 1024)
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x"])
    with beside(store.path) as visitor:
        visitor.execute("BEGIN")
        assert visitor.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        for _ in range(10):
            await append(store, topic, [b"x" * 1000] * 100)
        assert visitor.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    assert topic.next_offset == 1001


async def test_closing_leaves_one_file_that_holds_everything(open_store: Any) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x"] * 10)
    await store.close()
    assert sorted(file.name for file in store.directory.iterdir()) == ["peer.db", "peer.lock"]
    assert ask(store.path, "SELECT count(*) FROM messages") == 10
