"""The clock of leases, and of the delays of groups' messages, and a timer that goes by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

_AHEAD_US = (time.time_ns() - time.monotonic_ns()) // 1000

TIMER_SECONDS = 3600.0
"""The longest timer; whatever is due later is looked for again then."""
STOOD_STILL_US = 100_000
"""A timer that fires so late says that this process, or its machine, stood still ..."""
GRACE_SECONDS = 0.25
"""... and before leases end, there is so long to read what members had to say in the meantime."""


def now_us() -> int:
    """The time by which leases and delays are measured: that of the wall when this process began, for they are
    stored, but going on steadily, so that setting the clock neither ends nor prolongs them."""
    return _AHEAD_US + time.monotonic_ns() // 1000


class LeaseTimer:
    """Says when the next lease or delay of a group is over. Called in the event loop only.

    Args:
        expire: Called when the time has come, or an hour is over; a moment later if this process stood still.
    """

    def __init__(self, expire: Callable[[], None]) -> None:
        self._expire = expire
        self._timer: asyncio.TimerHandle | None = None
        self._due_us = 0

    def set(self, due_us: int | None) -> None:
        """Call `expire` at this time of the clock, if it is not called before; None: nothing is due."""
        if due_us is None or (self._timer is not None and self._due_us <= due_us):
            return
        if self._timer is not None:
            self._timer.cancel()
        seconds = min(max(0.0, (due_us - now_us()) / 1_000_000), TIMER_SECONDS)
        self._due_us = due_us
        self._timer = asyncio.get_running_loop().call_later(seconds, self._fire)

    def _fire(self, *, again: bool = False) -> None:
        self._timer = None
        if now_us() - self._due_us > STOOD_STILL_US and not again:
            self._timer = asyncio.get_running_loop().call_later(
                GRACE_SECONDS, partial(self._fire, again=True)
            )
        else:
            self._expire()

    def end(self) -> None:
        """Call nothing any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
