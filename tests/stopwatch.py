"""How long something took, without what other processes on a busy machine took from it."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULER = Path("/proc/thread-self/schedstat")
"""Of this thread, in ns: how long it ran, and how long it could have run but had no core (proc(5), Linux)."""


class Stopwatch:
    """Counts from when it is made, for the thread that makes it."""

    def __init__(self) -> None:
        self._began = time.monotonic() - _waited_seconds()

    @property
    def seconds(self) -> float:
        """Time that has passed, but for what this thread has waited for a core; all of it where nobody counts that."""
        return time.monotonic() - _waited_seconds() - self._began


def _waited_seconds() -> float:
    try:
        _ran, waited, _turns = _SCHEDULER.read_text().split()
    except (OSError, ValueError):
        return 0.0
    return int(waited) / 1e9
