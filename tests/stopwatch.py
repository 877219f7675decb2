"""How long something took, without what other processes on a busy machine took from it."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULER = Path("/proc/thread-self/schedstat")
"""Of this thread, in ns: how long it ran, and how long it could have run but had no core (proc(5), Linux)."""


class Stopwatch:
    """Counts from when it is made, for the thread that makes it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited_before = _waited_seconds()

    @property
    def seconds(self) -> float:
        """Time that has passed, but for `waited_seconds`."""
        return time.monotonic() - self._began - self.waited_seconds

    @property
    def waited_seconds(self) -> float:
        """For how long this thread could have run but had no core; 0 where nobody counts that."""
        return _waited_seconds() - self._waited_before


def _waited_seconds() -> float:
    try:
        _ran, waited_ns, _turns = _SCHEDULER.read_text().split()
    except (OSError, ValueError):
        return 0.0
    return int(waited_ns) / 1e9
