"""When what is published by `pubsub bench`: flat out, or at a rate, whether or not earlier ones are acknowledged.

Of a rate the instants are fixed before anything is published, and latency counts from them: a message that is handed
over late because those before it were slow shows the wait that it has had. Event loops round timers to milliseconds,
so a thread does the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Protocol

TICK_SECONDS = 0.0002
"""Messages due within so short a time may be handed over together."""

LATE_SECONDS = 1.0
"""For so long after the end what had become due is still handed over. What is left then was more than could be."""


class Supply(Protocol):
    """Says to callers what to publish."""

    async def due(self, most: int) -> list[int]:
        """The instants, at most so many, from which the latency of the next messages counts; none at the end."""

    def stop(self) -> None:
        """Hand nothing more out."""


class FlatOut:
    """As many as a caller will take, and at once, until the end."""

    def __init__(self, end_ns: int) -> None:
        self._end_ns = end_ns

    async def due(self, most: int) -> list[int]:
        """The present instant, so many times."""
        now_ns = time.monotonic_ns()
        return [now_ns] * most if now_ns < self._end_ns else []

    def stop(self) -> None:
        """Hand nothing more out."""
        self._end_ns = 0


class Schedule:
    """Of `rate` messages a second for some seconds, those of one publisher: each n-th of all, so that they alternate.

    Args:
        share: How many publishers there are.
        member: Which of them this is, from 0 on.
    """

    def __init__(self, rate: int, seconds: float, share: int, member: int, began_ns: int) -> None:
        self._rate = rate
        self._share = share
        self._member = member
        self._began_ns = began_ns
        self.total = self._own(round(rate * seconds))
        """How many are due in all."""
        self.taken = 0

    def _own(self, whole: int) -> int:
        """How many of the first `whole` of all are of this publisher."""
        return max(0, -((self._member - whole) // self._share))

    def instant_ns(self, number: int) -> int:
        """When message `number`, from 0 on, is due."""
        return self._began_ns + (number * self._share + self._member) * 1_000_000_000 // self._rate

    def take(self, now_ns: int, most: int) -> list[int]:
        """The instants of what is due by now and has not been taken, at most so many."""
        passed_ns = now_ns - self._began_ns + 1
        due = min(self.total, self._own(-(-passed_ns * self._rate // 1_000_000_000)))
        first, self.taken = self.taken, max(self.taken, min(due, self.taken + most))
        return [self.instant_ns(number) for number in range(first, self.taken)]


class Pace:
    """Hands a schedule out as it becomes due, to one caller after the other. `stop` it in the end.

    Args:
        end_ns: What is due and not taken shortly after this never will be.
    """

    def __init__(self, schedule: Schedule, end_ns: int) -> None:
        self._schedule = schedule
        self._until_ns = end_ns + round(LATE_SECONDS * 1e9)
        self._loop = asyncio.get_running_loop()
        self._ticked = asyncio.Event()
        self._ended = threading.Event()
        self._turn = asyncio.Lock()
        # A daemon: it holds nothing, and sleeps most of its life.
        threading.Thread(target=self._tick, name="pubsub: bench pace", daemon=True).start()

    async def due(self, most: int) -> list[int]:
        """Wait until something is due, and take it; nothing when all is taken, or it is too late."""
        async with self._turn:
            while not self._ended.is_set() and self._schedule.taken < self._schedule.total:
                now_ns = time.monotonic_ns()
                if now_ns > self._until_ns:
                    break
                if instants := self._schedule.take(now_ns, most):
                    return instants
                self._ticked.clear()
                await self._ticked.wait()
            return []

    def stop(self) -> None:
        """Hand nothing more out."""
        self._ended.set()
        self._ticked.set()

    def _tick(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            while self._schedule.taken < self._schedule.total:
                next_ns = self._schedule.instant_ns(self._schedule.taken)
                pause = (next_ns - time.monotonic_ns()) / 1e9
                if self._ended.wait(max(TICK_SECONDS, pause)):
                    return
                if not self._ticked.is_set():  # else nobody waits
                    self._loop.call_soon_threadsafe(self._ticked.set)
