"""What is known of producers is found again: in the rows of `producers`, and in the log from `producers_to` on."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pubsub.core.retention import Removal
from pubsub.core.sequence import REMEMBERED_BATCHES
from pubsub.errors import DamagedFileError, InternalError, InvalidRequestError, PubsubError
from pubsub.storage import producers
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic
from pubsub.storage.work import Append, Job
from tests.integration.storage.stores import append, ask, change, copy_of, submit, writer_held
from tests.waiting import wait_until

P = 4711


async def crashed(store: Store, to: Path) -> Path:
    """The files as a crash would leave them now, in another directory."""
    copied = asyncio.Event()

    def copy(_: Any) -> None:  # in the writing thread: nothing else is written meanwhile
        to.mkdir()
        for file in (store.path, store.path.with_name(store.path.name + "-wal")):
            shutil.copyfile(file, to / file.name)
        raise InvalidRequestError("the files are copied")  # so that this transaction leaves nothing

    store._writer.submit(Job(copy, lambda *_: copied.set()))
    await copied.wait()
    return to


async def send(store: Store, topic: Topic, count: int, producer: int = P, first: int = 0) -> list[int]:
    """Append single messages; their offsets."""
    return [await append(store, topic, [b"x"], producer=producer, sequence=first + n) for n in range(count)]


async def check(store: Store, offsets: list[int], producer: int = P) -> None:
    """Each of the last batches is recognised, and the next one taken."""
    topic = store.topic("t")
    for sequence, offset in list(enumerate(offsets))[-REMEMBERED_BATCHES:]:
        assert await submit(store, topic, [b"again"], producer=producer, sequence=sequence) == (offset, True)
    next_offset = topic.next_offset
    again = submit(store, topic, [b"next"], producer=producer, sequence=len(offsets))
    assert await again == (next_offset, False)


def saved(store: Store) -> int:
    return int(ask(store.path, "SELECT producers_to FROM topics WHERE name = 't'"))


async def test_after_a_crash_the_log_alone_tells_of_producers(open_store: Any, tmp_path: Path) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    offsets = await send(store, topic, 3)
    found = await crashed(store, tmp_path / "crashed")
    for table in (store.path, found / "peer.db"):
        assert ask(table, "SELECT count(*) FROM producers") == 0, "written with each batch"
    await check(await open_store(found), offsets)


async def test_when_nothing_happens_a_snapshot_is_written(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    await send(store, topic, 3)
    await wait_until(lambda: saved(store) == 3, description="the snapshot of an idle peer")
    assert ask(store.path, "SELECT next_sequence FROM producers") == 3


async def test_a_close_leaves_nothing_to_be_read_of_the_log(open_store: Any) -> None:
    store = await open_store()
    offsets = await send(store, await store.create(copy_of(1, "t")), 3)
    await store.close()
    assert saved(store) == 3
    change(store.path, "UPDATE messages SET batch = NULL")
    await check(await open_store(), offsets)


async def test_a_snapshot_comes_with_each_checkpoint_of_log(open_store: Any, tmp_path: Path) -> None:
    store = await open_store(checkpoint_bytes=500_000)
    topic = await store.create(copy_of(1, "t"))
    offsets = await send(store, topic, 40)
    before = saved(store)
    assert 0 < before <= 40
    await check(await open_store(await crashed(store, tmp_path / "crashed")), offsets)


async def test_nothing_is_to_be_saved_where_nobody_numbers_batches(open_store: Any) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    for next_offset in range(1, 4):
        await append(store, topic, [b"x"])
        assert saved(store) == next_offset
    await append(store, topic, [b"x"], producer=P)
    assert saved(store) == 3


async def test_retention_takes_no_batch_that_is_not_in_the_rows(open_store: Any, tmp_path: Path) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    offsets = await send(store, topic, 5)
    trimmed = await store.upkeep.trim(topic, Removal(below=4))
    assert trimmed is not None
    assert trimmed.removed == 4
    await check(await open_store(await crashed(store, tmp_path / "crashed")), offsets)
    await check(store, offsets)


async def test_compaction_takes_no_batch_that_is_not_in_the_rows(open_store: Any, tmp_path: Path) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    offsets = [await append(store, topic, [b"x"], producer=P, sequence=n, keys=["k"]) for n in range(5)]
    await store.upkeep.compact(topic, end=5)
    assert topic.messages == 1
    await check(await open_store(await crashed(store, tmp_path / "crashed")), offsets)


async def test_producers_that_leave_the_memory_are_found_after_a_crash(
    open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "PRODUCERS_CACHED", 10)
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    async with writer_held(store):
        answers = [submit(store, topic, [b"x"], producer=n) for n in range(1, 50)]
    await asyncio.gather(*answers)
    for n in range(50, 100):
        await append(store, topic, [b"x"], producer=n)
    assert ask(store.path, "SELECT count(*) FROM producers") == 89
    for again in (store, await open_store(await crashed(store, tmp_path / "crashed"))):
        for n in range(1, 100):
            assert await submit(again, again.topic("t"), [b"x"], producer=n) == (n - 1, True)


async def test_after_a_transaction_that_failed_the_log_is_asked_again(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    offsets = await send(store, topic, 3)
    async with writer_held(store):
        batches = [submit(store, topic, [b"x"], producer=P, sequence=n) for n in (3, 4)]
        broken = Append(
            topic.id, 1, 0, 0, None, None, [b"x"], 1, lambda *_: None, statements=[("SELECT x", [()])]
        )
        store.append(broken)
    for answer in await asyncio.gather(*batches, return_exceptions=True):
        assert isinstance(answer, PubsubError), answer
    await check(store, offsets)
    assert topic.next_offset == 4
    assert ask(store.path, "SELECT count(*) FROM messages") == 4


async def test_a_crash_in_the_midst_of_many_publishes_doubles_nothing(
    open_store: Any, tmp_path: Path
) -> None:
    draw = random.Random(20261125)
    store = await open_store(checkpoint_bytes=300_000)
    topic = await store.create(copy_of(1, "t"))
    acknowledged: dict[int, list[tuple[int, int, int]]] = {producer: [] for producer in range(1, 6)}
    stop = asyncio.Event()

    async def publish(producer: int) -> None:
        sequence = 0
        while not stop.is_set():
            count = draw.randint(1, 5)
            offset = await append(store, topic, [b"x"] * count, producer=producer, sequence=sequence)
            acknowledged[producer].append((sequence, count, offset))
            sequence += count

    async with asyncio.TaskGroup() as group:
        for producer in acknowledged:
            group.create_task(publish(producer), name=f"producer {producer}")
        for number in range(5):
            goal = draw.randint(1, 40) + len(acknowledged[1])
            await wait_until(lambda goal=goal: len(acknowledged[1]) >= goal, description="some are published")
            before = {producer: list(sent) for producer, sent in acknowledged.items()}
            other = await open_store(await crashed(store, tmp_path / f"crashed {number}"))
            known = {producer: (await _state(other, producer)).next_sequence for producer in acknowledged}
            for producer, sent in before.items():
                stored = [batch for batch in acknowledged[producer] if batch[0] + batch[1] <= known[producer]]
                assert len(stored) >= len(sent), "one that was acknowledged is not known"
                for sequence, count, offset in stored[-4:]:
                    again = submit(
                        other, other.topic("t"), [b"x"] * count, producer=producer, sequence=sequence
                    )
                    assert await again == (offset, True)
            await other.close()
        stop.set()


async def _state(store: Store, producer: int) -> Any:
    found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def look(_: Any) -> Any:
        writer = store._writer
        assert writer._cursor is not None
        return writer._appender.producers.state(writer._cursor, 1, producer)

    done: Callable[[Any, PubsubError | None], None] = lambda state, error: found.set_result(state)  # noqa: E731
    store._writer.submit(Job(look, done))
    return await found


async def test_a_mark_that_cannot_be_read_is_a_damaged_file(open_store: Any, tmp_path: Path) -> None:
    store = await open_store()
    await send(store, await store.create(copy_of(1, "t")), 1)
    found = await crashed(store, tmp_path / "crashed")
    change(found / "peer.db", "UPDATE messages SET batch = '[1,'")
    with pytest.raises(DamagedFileError, match="It was left as it is"):
        await open_store(found)


async def test_a_group_with_a_fault_of_ours_is_answered_and_nothing_of_it_is_known(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    answered = submit(store, topic, [b"x"], producer=P, keys=["\ud800"])
    with pytest.raises(InternalError):
        await answered
    assert await submit(store, topic, [b"x"], producer=P) == (0, False)
