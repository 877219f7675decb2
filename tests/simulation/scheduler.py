"""Virtual time: one queue of what happens when, one source of chance, one narration.

The same seed gives the same run. Time is integer microseconds and stands still while something happens.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

MS = 1_000
SECOND = 1_000_000

Action = Callable[[], None]


class Scheduler:
    """What happens next, until nothing does or time is up."""

    def __init__(self, seed: int, *, narrate: bool = False) -> None:
        self.random = Random(seed)
        self.now = 0
        self.steps = 0
        self.narration: list[str] = []
        self._narrate = narrate
        self._queue: list[tuple[int, int, Action]] = []
        self._number = 0

    def at(self, delay: int, action: Action) -> None:
        """Do this so many microseconds from now."""
        self._number += 1
        heapq.heappush(self._queue, (self.now + max(0, delay), self._number, action))

    def say(self, who: str, text: str, *args: Any) -> None:
        """Tell what happened, for whoever reads the trace of a failed run."""
        if self._narrate:
            self.narration.append(f"{self.now / SECOND:9.4f}  {who:<8} {text.format(*args)}")

    def run(self, until: int, done: Callable[[], bool] | None = None) -> bool:
        """Let things happen up to this time, or until `done`; whether that came true."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, action = heapq.heappop(self._queue)
            self.steps += 1
            action()
            if done is not None and self.steps % 64 == 0 and done():
                return True
        self.now = max(self.now, until)
        return done is not None and done()

    def between(self, low: int, high: int) -> int:
        return low + int(self.random.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability
