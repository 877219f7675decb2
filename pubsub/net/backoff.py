"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays that double up to a limit, each taken at random from its upper half.

    The jitter keeps a crowd that lost the same server from returning in step ("Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015: the variant called equal jitter).
    """

    def __init__(
        self, first_seconds: float, most_seconds: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._chance = chance
        self._next = first_seconds

    def next_seconds(self) -> float:
        """How long to wait this time; more the next time."""
        whole, self._next = self._next, min(self._next * 2, self._most)
        return whole / 2 + whole / 2 * self._chance()

    def reset(self) -> None:
        """It worked: begin with the shortest delay again."""
        self._next = self._first
