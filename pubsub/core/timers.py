"""When leases and delays end: a heap, of which nothing but what is due is ever looked at.

Nothing is taken out when it is settled early. Whoever asks what is due compares with what he knows; and once most of
the heap is settled it is made anew, which costs as much as was put in since the last time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator

SLACK = 1000
"""Settled entries that are put up with besides as many as are alive."""


class Timers:
    """Instants at which something is due, each for some offsets.

    Args:
        due_us: When an offset is due as of now; None: never.
    """

    def __init__(self, due_us: Callable[[int], int | None]) -> None:
        self._due_us = due_us
        self._heap: list[tuple[int, int, tuple[int, ...]]] = []
        """(due, number, offsets); the number keeps offsets from being compared."""
        self._number = 0
        self.size = 0
        """Offsets in the heap, settled ones included."""

    @property
    def next_us(self) -> int | None:
        """When something may be due next."""
        return self._heap[0][0] if self._heap else None

    def add(self, due_us: int, offsets: Collection[int], alive: int) -> None:
        """These are due then; about so many offsets are due at some time."""
        if not offsets:
            return
        self._number += 1
        heapq.heappush(self._heap, (due_us, self._number, tuple(offsets)))
        self.size += len(offsets)
        if self.size > 2 * alive + SLACK:
            self._make_anew()

    def due(self, now_us: int) -> Iterator[int]:
        """Take out what is due, in order of time."""
        while self._heap and self._heap[0][0] <= now_us:
            due_us, _, offsets = heapq.heappop(self._heap)
            self.size -= len(offsets)
            for offset in offsets:
                if self._due_us(offset) == due_us:
                    yield offset

    def _make_anew(self) -> None:
        kept = [
            (due_us, number, left)
            for due_us, number, offsets in self._heap
            if (left := tuple(offset for offset in offsets if self._due_us(offset) == due_us))
        ]
        heapq.heapify(kept)
        self._heap = kept
        self.size = sum(len(offsets) for _, _, offsets in kept)
