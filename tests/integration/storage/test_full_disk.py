"""No room: nothing is acknowledged that is not stored, reads go on, and it works again once there is room."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tests
from pubsub.errors import DataDirectoryError
from tests.integration.storage.full_disk import tell
from tests.integration.storage.stores import append, copy_of

ROOT = Path(tests.__file__).parent.parent
DISK_BYTES = 3 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", place], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run([umount, "--lazy", place], check=True)


def fill(place: Path) -> None:
    """Take every byte that is left."""
    with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.integration.storage.full_disk", str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr


async def test_a_full_file_system(small_disk: Path) -> None:
    await tell(small_disk / "data", lambda: fill(small_disk), (small_disk / "filler").unlink)


async def test_a_start_on_a_full_disk_is_refused_with_the_reason_and_works_once_there_is_room(
    small_disk: Path, open_store: Any
) -> None:
    fill(small_disk)
    with pytest.raises(
        DataDirectoryError, match=r"cannot be used: .*see whether the disk is full|No space left"
    ):
        await open_store(small_disk)
    (small_disk / "filler").unlink()
    store = await open_store(small_disk)
    assert await append(store, await store.create(copy_of(1, "t")), [b"x"]) == 0
    await store.close()
    fill(small_disk)
    with contextlib.suppress(
        DataDirectoryError
    ):  # with what room the file itself has left it may start, or not
        await (await open_store(small_disk)).close()
    (small_disk / "filler").unlink()
    store = await open_store(small_disk)
    assert store.topic("t").next_offset == 1
    await store.close()
