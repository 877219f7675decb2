"""The data directory: who may use it, and what is said to whom may not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pubsub.errors import DataDirectoryError
from pubsub.storage.directory import DirectoryLock
from pubsub.storage.store import Store
from tests.integration.storage.stores import append, copy_of, fingerprint, read_all

NOBODY = 65534
HOLD = """
import sys
from pathlib import Path
from pubsub.storage.directory import DirectoryLock
DirectoryLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def as_somebody_else() -> Iterator[None]:
    """For root: file permissions hold for this user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that other users can reach too, which pytest's tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="pubsub-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_a_directory_in_use_by_another_process_is_refused_and_the_process_named(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "data")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataDirectoryError, match=rf"data is in use by process {holder.pid};"):
            await Store.open(tmp_path / "data", "alice")
    finally:
        holder.kill()
        holder.communicate()
    store = await Store.open(tmp_path / "data", "alice")  # the lock ended with its holder
    await store.close()


async def test_a_second_store_in_this_process_is_refused_too_and_the_first_goes_on(open_store: Any) -> None:
    store = await open_store()
    with pytest.raises(DataDirectoryError, match=f"in use by process {os.getpid()}"):
        await Store.open(store.directory, "alice")
    assert await append(store, await store.create(copy_of(1, "t")), [b"x"]) == 0


async def test_missing_directories_are_made(open_store: Any, tmp_path: Path) -> None:
    store = await open_store(tmp_path / "a" / "b" / "c")
    assert store.path == tmp_path / "a" / "b" / "c" / "peer.db"
    assert store.path.is_file()


@pytest.mark.parametrize("path", ["file", "file/below"])
async def test_what_is_no_directory_is_refused_and_left_as_it_is(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataDirectoryError, match="is not a directory; give another with --data"):
        await Store.open(tmp_path / path, "alice")
    assert (tmp_path / "file").read_text() == "mine"


async def test_a_place_that_takes_no_directory_is_refused() -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc here")
    with pytest.raises(DataDirectoryError, match="/proc/pubsub cannot be written to"):
        await Store.open(Path("/proc/pubsub"), "alice")


@pytest.mark.parametrize("exists", [True, False], ids=["itself", "its parent"])
def test_a_directory_without_permission_to_write_is_refused(public_directory: Path, exists: bool) -> None:
    directory = public_directory / "data"
    if exists:
        directory.mkdir()
    (directory if exists else public_directory).chmod(0o555)
    with (
        as_somebody_else(),
        pytest.raises(DataDirectoryError, match="cannot be written to: Permission denied"),
    ):
        DirectoryLock(directory).acquire()


def test_a_parent_that_may_be_passed_through_but_not_read_is_no_hindrance(public_directory: Path) -> None:
    directory = public_directory / "data"
    directory.mkdir()
    directory.chmod(0o777)
    public_directory.chmod(0o111)
    lock = DirectoryLock(directory)
    with as_somebody_else():
        lock.acquire()
    assert (directory / "peer.lock").read_text() == f"{os.getpid()}\n"
    lock.release()
    lock.release()
    public_directory.chmod(0o755)


async def test_the_directory_of_another_peer_is_refused_with_its_name(open_store: Any) -> None:
    store = await open_store(name="alice")
    await append(store, await store.create(copy_of(1, "t")), [b"x"])
    await store.close()
    before = fingerprint(store.directory)
    with pytest.raises(DataDirectoryError, match="belongs to peer alice, not bob: start it as alice"):
        await Store.open(store.directory, "bob")
    assert fingerprint(store.directory) == before
    again = await open_store()
    assert again.incarnation == f"{store.node_id}.2"  # the refused start did not count


async def test_a_refused_open_lets_go_of_the_directory(open_store: Any) -> None:
    store = await open_store()
    await store.close()
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match="belongs to peer alice"):
            await Store.open(store.directory, "bob")
    await open_store()


async def test_an_open_that_is_cancelled_lets_go_of_the_directory(open_store: Any, tmp_path: Path) -> None:
    opening = asyncio.create_task(Store.open(tmp_path / "data", "alice"), name="open")
    await asyncio.sleep(0)  # lets it begin
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    store = await open_store()
    assert store.topics == {}


async def test_a_close_that_is_cancelled_goes_on_to_its_end(open_store: Any) -> None:
    store = await open_store()
    topic = await store.create(copy_of(1, "t"))
    await append(store, topic, [b"x"] * 100)
    closing = asyncio.create_task(store.close(), name="close")
    await asyncio.sleep(0)  # lets it begin
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await store.close()
    again = await open_store()
    assert await read_all(again, again.topic("t")) == [b"x"] * 100
