"""The clock by which an index judges deadlines. All indexes' must agree to well within the ttl."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Gives the instant, microseconds UTC."""


LATEST_US = 253_402_300_799_999_999
"""The end of the year 9999, beyond which no date can be written."""


def now_us() -> int:
    """The instant, microseconds UTC."""
    return time.time_ns() // 1000
