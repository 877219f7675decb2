"""The clock of leases, and of the delays of groups' messages."""

from __future__ import annotations

import time

_AHEAD_US = (time.time_ns() - time.monotonic_ns()) // 1000


def now_us() -> int:
    """The time by which leases and delays are measured: that of the wall when this process began, for they are
    stored, but going on steadily, so that setting the clock neither ends nor prolongs them."""
    return _AHEAD_US + time.monotonic_ns() // 1000
