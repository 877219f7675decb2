"""Wakes an event loop at fixed instants.

Event loops round timers to milliseconds, as coarse as what is to be measured. Linux has a clock that can be waited
for like a socket (timerfd); elsewhere the loop's own timer must do.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from types import TracebackType
from typing import Self

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC if sys.platform == "linux" else 0
_ABSOLUTE = 1
_LEAD_NS = 10_000_000


class _Instant(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

    @classmethod
    def of(cls, ns: int) -> _Instant:
        return cls(ns // 1_000_000_000, ns % 1_000_000_000)


class _Schedule(ctypes.Structure):
    _fields_ = [("interval", _Instant), ("first", _Instant)]


class Pace:
    """Instants `interval_seconds` apart, from shortly after it is entered on."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_ns = round(interval_seconds * 1e9)
        self._descriptor = -1
        self._ticked = asyncio.Event()

    def __enter__(self) -> Self:
        self._next_ns = time.monotonic_ns() + _LEAD_NS
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
            schedule = _Schedule(_Instant.of(self._interval_ns), _Instant.of(self._next_ns))
            if self._descriptor < 0 or libc.timerfd_settime(
                self._descriptor, _ABSOLUTE, ctypes.byref(schedule), None
            ):
                raise OSError(ctypes.get_errno(), "timerfd")
            asyncio.get_running_loop().add_reader(self._descriptor, self._tick)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)

    def _tick(self) -> None:
        os.read(self._descriptor, 8)
        self._ticked.set()

    async def due(self) -> list[int]:
        """Wait for the next instant; returns it with all others that have passed by then, in ns."""
        if self._descriptor >= 0:
            await self._ticked.wait()
            self._ticked.clear()
        else:
            await asyncio.sleep(max(0.0, (self._next_ns - time.monotonic_ns()) / 1e9))
        instants = list(range(self._next_ns, time.monotonic_ns() + 1, self._interval_ns))
        self._next_ns += self._interval_ns * len(instants)
        return instants
