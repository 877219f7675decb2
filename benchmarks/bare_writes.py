"""What the disk of this machine can do, measured with nothing in between."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.worker import Cue

BLOCK_BYTES = 4096
REUSED_BLOCKS = 256


class BareWrites:
    """4 KiB written and synced again and again: at the end of a growing file, and over blocks that are there.

    The first is what a new log does, with the file's size to be made durable too; the second the least that any
    durable write costs.
    """

    def __init__(self, directory: str) -> None:
        self._block = os.urandom(BLOCK_BYTES)
        self._growing = os.open(Path(directory) / "growing", os.O_RDWR | os.O_CREAT, 0o600)
        self._within = os.open(Path(directory) / "within", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._within, self._block * REUSED_BLOCKS, 0)
        os.fsync(self._within)
        self._written = 0
        self.growing: list[float] = []
        """Seconds that each took."""
        self.within: list[float] = []

    def burst(self, count: int) -> None:
        """Do `count` of either."""
        numbers = range(self._written, self._written + count)
        self._written += count
        self.growing += [self._write(self._growing, number) for number in numbers]
        self.within += [self._write(self._within, number % REUSED_BLOCKS) for number in numbers]

    def _write(self, descriptor: int, block: int) -> float:
        began = time.perf_counter()
        os.pwrite(descriptor, self._block, block * BLOCK_BYTES)
        os.fdatasync(descriptor)
        return time.perf_counter() - began

    def close(self) -> None:
        os.close(self._growing)
        os.close(self._within)


async def write_and_sync(cue: Cue, *, directory: str, count: int) -> dict[str, Any]:
    """Bare writes, nothing else."""
    writes = BareWrites(directory)
    await cue.ready()
    writes.burst(count)
    writes.close()
    return {"growing": writes.growing, "within": writes.within}
