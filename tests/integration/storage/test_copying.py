"""A copy's side of the file: it takes what its owner's log has, and nothing else; what is cut off is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from pubsub.core.epochs import EpochStart
from pubsub.errors import DamagedFileError, NotOwnerError, PubsubError, SequenceError
from pubsub.peer.positions import find_position
from pubsub.protocol.batch import slice_batch
from pubsub.protocol.messages import LATEST, Batch, CopyState
from pubsub.storage.chunks import read_chunk
from pubsub.storage.copying import check_batches
from pubsub.storage.store import Store
from pubsub.storage.topic import Topic
from pubsub.storage.work import Received
from tests.integration.storage.conftest import OpenStore
from tests.integration.storage.stores import append, copy_of, submit

ID = 7
Part = tuple[Batch, list[tuple[int, str]]]
MEMBERS: dict[str, Any] = {"replicas": ["alice", "bob"], "in_sync": ["alice", "bob"], "version": 1}


@pytest_asyncio.fixture
async def owned(store: Store) -> Topic:
    """A topic of alice with batches of several kinds."""
    topic = await store.create(copy_of(ID, "t", **MEMBERS))
    await append(store, topic, [b"a", b"b"], producer=5, sequence=0)
    await append(store, topic, [b"c"], producer=5, sequence=2, keys=["k"], headers=['{"h":"1"}'])
    await append(store, topic, [b"d"] * 300)
    await append(store, topic, [b"e"], producer=6, sequence=0)
    return topic


@pytest_asyncio.fixture
async def copies(open_store: OpenStore, tmp_path: Path) -> AsyncIterator[Store]:
    """The store of bob, with an empty copy."""
    store = await open_store(tmp_path / "bob", "bob")
    await store.create(CopyState(id=ID, topic="t", role="replica", owner="alice", epoch=1, **MEMBERS))
    yield store


async def log(store: Store, start: int = 0) -> Part:
    found = await store.look(read_chunk, ID, start, 10**6, 10**6, 10**9)
    assert found is not None
    return found


async def receive(store: Store, part: Part, start: int, stop: int, **fields: Any) -> None:
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: PubsubError | None) -> None:
        answered.set_exception(error) if error is not None else answered.set_result(None)

    values: dict[str, Any] = {"epoch": 1, "committed": stop, "size_bytes": 1, "parts": [part]}
    store.receive(Received(topic_id=ID, start=start, stop=stop, done=done, **{**values, **fields}))
    await answered


async def rows(store: Store) -> list[tuple[Any, ...]]:
    sql = "SELECT offset, published_at, key, headers, payload, batch FROM messages ORDER BY offset"
    return await store.look(lambda c: [tuple(row) for row in c.exec_driver_sql(sql)])


async def test_a_copy_is_row_for_row_the_owners_log_and_counts_it_alike(
    store: Store, owned: Topic, copies: Store
) -> None:
    await receive(copies, await log(store), 0, 304, epochs=[EpochStart(1, 0, False, "alice")])
    assert await rows(copies) == await rows(store)
    copy = copies.by_id[ID]
    assert (copy.next_offset, copy.committed) == (304, 304)
    assert (copy.messages, copy.size_bytes) == (owned.messages, owned.size_bytes)
    assert copy.epochs == (EpochStart(1, 0, False, "alice"),)


async def test_nothing_is_taken_of_another_epoch_or_that_does_not_begin_at_the_end(
    store: Store, owned: Topic, copies: Store
) -> None:
    part = await log(store)
    for wrong in ({"epoch": 2}, {"epoch": 0}):
        with pytest.raises(NotOwnerError):
            await receive(copies, part, 0, 304, **wrong)
    with pytest.raises(NotOwnerError):
        await receive(copies, part, 1, 304)
    assert await copies.copies.promise(copies.by_id[ID], 9)
    assert not await copies.copies.promise(copies.by_id[ID], 9)
    with pytest.raises(NotOwnerError):
        await receive(copies, part, 0, 304)
    assert await rows(copies) == []


async def test_a_copy_that_becomes_the_owner_knows_its_producers_and_appends_behind_its_log(
    store: Store, owned: Topic, copies: Store
) -> None:
    await receive(copies, await log(store), 0, 304)
    copy = copies.by_id[ID]
    change = CopyState(id=ID, topic="t", role="owner", owner="bob", epoch=9, **MEMBERS)
    await copies.copies.take_role(copy, change)
    assert (copy.role, copy.epoch) == ("owner", 9)
    assert copy.epochs[-1] == EpochStart(9, 304, False, "bob")
    assert await submit(copies, copy, [b"c"], producer=5, sequence=2) == (2, True)
    assert await append(copies, copy, [b"f"], producer=5, sequence=3) == 304
    with pytest.raises(SequenceError):
        await append(copies, copy, [b"x"], producer=6, sequence=5)
    with pytest.raises(NotOwnerError):
        await append(copies, copy, [b"x"], epoch=1)
    with pytest.raises(NotOwnerError):  # the same epoch once more
        await copies.copies.take_role(copy, CopyState(id=ID, topic="t", role="replica", owner="eve", epoch=9))
    assert copy.committed == 304


async def test_what_an_owner_took_up_is_not_new_although_it_does_not_know_yet_that_it_is_committed(
    store: Store, owned: Topic, copies: Store, open_store: OpenStore, tmp_path: Path
) -> None:
    await receive(copies, await log(store), 0, 304, committed=3)
    copy = copies.by_id[ID]
    assert copy.latest == 3
    own = CopyState(id=ID, topic="t", role="owner", owner="bob", epoch=9, **MEMBERS)
    await copies.copies.take_role(copy, own)
    await append(copies, copy, [b"new"])
    await copies.close()
    again = await open_store(tmp_path / "bob", "bob")
    for taken_up, at in ((copy, 304), (again.by_id[ID], 305)):
        assert (taken_up.committed, taken_up.next_offset) == (3, 305)
        assert await find_position(again, taken_up, LATEST, 0) == taken_up.latest == at
    follow = CopyState(id=ID, topic="t", role="replica", owner="eve", epoch=10, **MEMBERS)
    await again.copies.take_role(again.by_id[ID], follow)
    assert again.by_id[ID].latest == 3


async def test_epochs_that_were_received_stay_whatever_else_is_written_down_with_them(
    store: Store, owned: Topic, copies: Store, open_store: OpenStore, tmp_path: Path
) -> None:
    batch, marks = await log(store)
    copy = copies.by_id[ID]
    epochs = [
        EpochStart(1, 0, False, "alice"),
        EpochStart(5, 3, False, "bob"),
        EpochStart(9, 304, False, "eve"),
    ]
    second = CopyState(id=ID, topic="t", role="replica", owner="alice", epoch=1, **{**MEMBERS, "version": 2})
    third = CopyState(id=ID, topic="t", role="replica", owner="eve", epoch=9, **MEMBERS)
    await asyncio.gather(  # all in one transaction, or in one after the other before the event loop hears of it
        receive(copies, (slice_batch(batch, 0, 3), marks[:2]), 0, 3, epochs=epochs[:1]),
        copies.copies.set_members(copy, second, []),
        receive(copies, await log(store, 3), 3, 304, epochs=epochs[1:2]),
        copies.copies.set_epochs(copy, epochs, 1),
        copies.copies.take_role(copy, third),
    )
    assert copy.epochs == tuple(epochs)
    await copies.close()
    again = await open_store(tmp_path / "bob", "bob")
    assert again.by_id[ID].epochs == tuple(epochs)


async def test_what_is_cut_off_is_kept_and_its_producers_numbers_are_taken_back(
    store: Store, owned: Topic, copies: Store
) -> None:
    await receive(copies, await log(store), 0, 304, epochs=[EpochStart(1, 0, False, "alice")])
    copy = copies.by_id[ID]
    change = CopyState(id=ID, topic="t", role="replica", owner="carol", epoch=9, **MEMBERS)
    await copies.copies.take_role(copy, change)
    assert await copies.copies.cut(copy, 2, 9, "carol") == 302
    assert (copy.next_offset, copy.committed, copy.messages) == (2, 2, 2)
    sql = "SELECT offset, epoch, payload, owner, owner_epoch FROM orphaned_messages ORDER BY id LIMIT 2"
    orphans = await copies.look(lambda c: [tuple(row) for row in c.exec_driver_sql(sql)])
    assert orphans == [(2, 1, b"c", "carol", 9), (3, 1, b"d", "carol", 9)]
    again = CopyState(id=ID, topic="t", role="owner", owner="bob", epoch=10, **MEMBERS)
    await copies.copies.take_role(copy, again)
    assert await submit(copies, copy, [b"a", b"b"], producer=5, sequence=0) == (0, True)
    assert await submit(copies, copy, [b"c"], producer=5, sequence=2) == (2, False)
    assert await submit(copies, copy, [b"e"], producer=6, sequence=0) == (3, False)


async def test_a_batch_that_was_changed_is_found(store: Store, owned: Topic) -> None:
    batch, marks = await log(store)
    check_batches("t", batch, marks)
    for position in (0, 2, 100, 303):
        payloads = list(batch.payloads)
        payloads[position] = b"other"
        with pytest.raises(DamagedFileError, match="does not fit its checksum"):
            check_batches("t", msgspec.structs.replace(batch, payloads=payloads), marks)


async def test_a_row_behind_the_end_of_a_copy_is_damage_and_holds_up_nothing_else(
    store: Store, owned: Topic, copies: Store
) -> None:
    other = await copies.create(CopyState(id=8, topic="other", role="owner", owner="bob", epoch=1))
    stray = "INSERT INTO messages (topic_id, offset, published_at, payload) VALUES (7, 200, 1, 'stray')"
    await copies.change_file(lambda connection: connection.exec_driver_sql(stray))
    part = await log(store)
    damaged, stored = await asyncio.gather(
        receive(copies, part, 0, 304), append(copies, other, [b"x"]), return_exceptions=True
    )
    assert isinstance(damaged, DamagedFileError)
    assert "--set-damaged-aside" in str(damaged)
    assert stored == 0
    assert copies.by_id[ID].next_offset == 0
    assert sorted(row[0] for row in await rows(copies)) == [0, 200]


async def test_rows_besides_messages_are_kept_apart_until_the_copy_owns(
    store: Store, owned: Topic, copies: Store
) -> None:
    cells = msgspec.msgpack.encode((3, "{}", 1))
    shipped = [
        (True, [("groups", '["g"]', cells), ("groups", '["h"]', cells)]),
        (False, [("groups", '["h"]', None)]),
    ]
    await receive(copies, await log(store), 0, 304, beside=shipped)
    count = "SELECT (SELECT count(*) FROM groups), (SELECT count(*) FROM copied_state)"
    assert await copies.look(lambda c: tuple(c.exec_driver_sql(count).one())) == (0, 1)
    change = CopyState(id=ID, topic="t", role="owner", owner="bob", epoch=9, **MEMBERS)
    await copies.copies.take_role(copies.by_id[ID], change)
    assert await copies.look(lambda c: tuple(c.exec_driver_sql(count).one())) == (1, 0)
