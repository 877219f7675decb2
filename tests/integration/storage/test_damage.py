"""A peer.db that is no sound file of this version is refused, named, and left byte for byte as it is."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pubsub.errors import DamagedFileError, DataDirectoryError, NewerSchemaError, PubsubError, StorageError
from pubsub.storage.database import writer_engine
from pubsub.storage.migrate import HEAD_REVISION
from pubsub.storage.schema import PAGE_BYTES
from pubsub.storage.store import Store
from tests.integration.storage.stores import append, ask, beside, change, copy_of, fingerprint, read_all

MESSAGES = 600


async def fill(store: Store) -> None:
    topic = await store.create(copy_of(1, "t"))
    for start in range(0, MESSAGES, 100):
        await append(store, topic, [b"%05d" % n + b"x" * 500 for n in range(start, start + 100)])


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def zero_a_page_of_messages(path: Path) -> None:
    """One in the middle of the table, a leaf: neither its root nor where its last message is."""
    page = path.read_bytes().index(b"00300xxx") // PAGE_BYTES
    overwrite(path, page * PAGE_BYTES, bytes(PAGE_BYTES))


def replace_by_another_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
        connection.execute("INSERT INTO customers VALUES ('Smith')")
    connection.close()


def truncate_to(fraction: float) -> Callable[[Path], None]:
    def truncate(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(int(path.stat().st_size * fraction))

    return truncate


DAMAGES: dict[str, tuple[Callable[[Path], Any], type[PubsubError], str]] = {
    "garbage at the start": (
        lambda path: overwrite(path, 0, b"garbage!" * 8),
        DamagedFileError,
        "not an SQLite",
    ),
    "garbage in the header": (lambda path: overwrite(path, 16, b"\xff" * 80), DamagedFileError, "damaged"),
    "garbage throughout": (
        lambda path: path.write_bytes(random.Random(1).randbytes(50_000)),
        DamagedFileError,
        "not an SQLite database",
    ),
    "text": (lambda path: path.write_text("hello"), DamagedFileError, "not an SQLite database"),
    "only the first bytes": (lambda path: overwrite_all(path, 100), DamagedFileError, "damaged"),
    "cut in half": (truncate_to(0.5), DamagedFileError, "damaged"),
    "the last tenth missing": (truncate_to(0.9), DamagedFileError, "damaged"),
    "a page of zeros in the middle": (zero_a_page_of_messages, DamagedFileError, "damaged"),
    "the first tables zeroed": (
        lambda path: overwrite(path, PAGE_BYTES, bytes(4 * PAGE_BYTES)),
        DamagedFileError,
        "damaged",
    ),
    "another application's": (replace_by_another_database, DamagedFileError, "not one of pubsub"),
    "a topic that ends before its messages": (
        lambda path: change(path, "UPDATE topics SET next_offset = 5"),
        DamagedFileError,
        "topic t has messages beyond its next offset 5",
    ),
    "a policy that is no JSON": (
        lambda path: change(path, "UPDATE topics SET policy = '{broken'"),
        DamagedFileError,
        "damaged",
    ),
    "of a newer version": (
        lambda path: change(path, "UPDATE alembic_version SET version_num = '9999'"),
        NewerSchemaError,
        f"has schema 9999, this version of pubsub knows up to {HEAD_REVISION}: upgrade pubsub",
    ),
}


def overwrite_all(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


@pytest.mark.parametrize("damage", DAMAGES)
async def test_it_is_refused_named_and_left_as_it_is(open_store: Any, damage: str) -> None:
    store = await open_store()
    await fill(store)
    await store.close()
    spoil, error, said = DAMAGES[damage]
    spoil(store.path)
    before = fingerprint(store.directory)
    for _ in range(2):
        with pytest.raises(error) as raised:
            await Store.open(store.directory, "alice")
        assert str(store.path) in str(raised.value)
        assert said in str(raised.value)
        assert "left as it" in str(raised.value)
    assert fingerprint(store.directory) == before


@pytest.mark.parametrize("damage", ["a page of zeros in the middle", "cut in half", "of a newer version"])
async def test_the_log_that_a_crash_left_is_not_touched_either(
    open_store: Any, tmp_path: Path, damage: str
) -> None:
    store = await open_store()
    await fill(store)
    await store.close()
    store = await open_store()
    await append(store, store.topic("t"), [b"only in the log"] * 10)
    shutil.copytree(store.directory, tmp_path / "crashed")  # as a kill -9 now would leave it
    assert (tmp_path / "crashed" / "peer.db-wal").stat().st_size > 0
    path = tmp_path / "crashed" / "peer.db"
    if damage == "of a newer version":
        with beside(path, "rw") as connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            shutil.copytree(path.parent, tmp_path / "newer")
        path = tmp_path / "newer" / "peer.db"
    else:
        DAMAGES[damage][0](path)
    before = fingerprint(path.parent)
    assert "peer.db-wal" in before
    with pytest.raises(DAMAGES[damage][1]):
        await Store.open(path.parent, "alice")
    assert fingerprint(path.parent) == before


async def test_what_a_crash_left_in_the_log_is_there_at_the_next_start(
    open_store: Any, tmp_path: Path
) -> None:
    store = await open_store()
    await fill(store)
    shutil.copytree(store.directory, tmp_path / "crashed")
    again = await open_store(tmp_path / "crashed")
    assert len(await read_all(again, again.topic("t"))) == MESSAGES


async def test_a_large_file_is_opened_without_a_look_at_each_page_and_a_bad_page_met_when_it_is_read(
    open_store: Any,
) -> None:
    store = await open_store()
    await fill(store)
    await store.close()
    zero_a_page_of_messages(store.path)
    store = await open_store(quick_check_bytes=1)
    topic = store.topic("t")
    with pytest.raises(StorageError, match=r"cannot read .*peer\.db: .*malformed"):
        await read_all(store, topic)
    assert await store.read(topic, MESSAGES - 1, 1) is not None
    assert await append(store, topic, [b"x"]) == MESSAGES


@pytest.mark.parametrize("content", ["no file", "an empty file"])
async def test_where_there_is_nothing_a_new_file_is_made(
    open_store: Any, tmp_path: Path, content: str
) -> None:
    (tmp_path / "data").mkdir()
    if content == "an empty file":
        (tmp_path / "data" / "peer.db").touch()
    store = await open_store()
    assert await append(store, await store.create(copy_of(1, "t")), [b"x"]) == 0


async def test_a_first_start_that_was_cut_short_is_begun_again(open_store: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "peer.db"
    engine = writer_engine(path)
    with engine.connect() as connection:  # what a start does first, before its transaction
        for pragma in (f"page_size = {PAGE_BYTES}", "auto_vacuum = INCREMENTAL", "journal_mode = WAL"):
            connection.exec_driver_sql(f"PRAGMA {pragma}")
    engine.dispose()
    assert path.stat().st_size == PAGE_BYTES
    store = await open_store()
    assert await append(store, await store.create(copy_of(1, "t")), [b"x"]) == 0
    assert ask(path, "PRAGMA auto_vacuum") == 2


async def test_a_file_without_permission_to_read_is_refused(open_store: Any, tmp_path: Path) -> None:
    (tmp_path / "data" / "peer.db").mkdir(parents=True)  # cannot be read as a file by anyone
    with pytest.raises(DataDirectoryError, match=r"peer\.db cannot be read"):
        await open_store()


async def test_a_damaged_file_is_kept_under_another_name_where_that_is_wanted_and_the_peer_begins_empty(
    tmp_path: Path,
):
    store = await Store.open(tmp_path, "alice")
    await fill(store)
    await store.close()
    overwrite(store.path, 0, b"garbage!" * 8)
    before = store.path.read_bytes()
    with pytest.raises(DamagedFileError, match="--set-damaged-aside"):
        await Store.open(tmp_path, "alice")
    assert store.path.read_bytes() == before
    for files in (1, 2):
        again = await Store.open(tmp_path, "alice", set_damaged_aside=True)
        assert (again.topics, len(again.files_aside)) == ({}, files)
        await again.close()
        assert (tmp_path / again.files_aside[0]).read_bytes() == before
        overwrite(store.path, 0, b"garbage!" * 8)


async def test_a_cursor_that_is_none_is_damage_and_the_directory_is_let_go(tmp_path: Path):
    store = await Store.open(tmp_path, "alice")
    await fill(store)
    await store.close()
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        connection.execute("INSERT INTO cursors VALUES (1, 'd', 't', 0, 'no number', 1)")
        connection.commit()
    for _ in range(2):
        with pytest.raises(DamagedFileError):
            await Store.open(tmp_path, "alice")


async def test_a_sound_file_is_not_set_aside(tmp_path: Path):
    store = await Store.open(tmp_path, "alice")
    await fill(store)
    await store.close()
    again = await Store.open(tmp_path, "alice", set_damaged_aside=True)
    assert (list(again.topics), again.files_aside) == (["t"], [])
    await again.close()
