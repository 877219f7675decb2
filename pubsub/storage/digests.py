"""Digests of ranges of a log, by which copies are compared.

The digest of a range of offsets is the CRC-32 (zlib) of the msgpack arrays [offset, time, key, headers, payload] of its
rows, one behind the other: the same on all copies, however they were stored.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from zlib import crc32

import msgspec

Cells = tuple[int, int, str | None, str | None, bytes | None]
"""Offset, time, key, headers, payload."""

_encode = msgspec.msgpack.Encoder().encode


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Offsets `start` up to, not including, `stop` of a copy."""

    start: int
    stop: int
    messages: int
    digest: int
    """-1: a part of it cannot be read."""


class Digests:
    """The ranges of what is read, in order, from offset `start` on and below `stop`; they end at multiples of `step`.

    Args:
        begun: The last range of the chunk before, which goes on here.
    """

    def __init__(self, start: int, stop: int, step: int, begun: Range | None) -> None:
        begun = begun or Range(start, start, 0, 0)
        self._stop, self._step = stop, step
        self._ranges: list[Range] = []
        self._messages, self._digest = begun.messages, begun.digest
        self._range_start, self._range_stop = begun.start, self._end_of(begun.start)

    def _end_of(self, offset: int) -> int:
        return min(self._stop, offset - offset % self._step + self._step)

    def add(self, rows: list[Cells]) -> None:
        """What was read next."""
        position = 0
        while position < len(rows):
            while rows[position][0] >= self._range_stop:
                self._end_range(self._range_stop)
            end = bisect_left(rows, self._range_stop, position, key=itemgetter(0))
            self._digest = crc32(_encode_each(rows[position:end]), self._digest)
            self._messages += end - position
            position = end

    def _end_range(self, stop: int) -> None:
        self._ranges.append(Range(self._range_start, stop, self._messages, self._digest))
        self._range_start, self._range_stop = stop, self._end_of(stop)
        self._digest = self._messages = 0

    def up_to(self, stop: int) -> list[Range]:
        """All ranges, where everything below `stop` has been read."""
        while stop > self._range_stop:
            self._end_range(self._range_stop)
        if stop > self._range_start:
            self._end_range(stop)
        return self._ranges

    def up_to_damage(self, offset: int, start: int) -> list[Range]:
        """All ranges up to the one that has this offset, which cannot be read; reading began at `start`."""
        whole = [part for part in self._ranges if part.stop <= offset]
        begin = whole[-1].stop if whole else start
        return [*whole, Range(begin, max(self._end_of(begin), begin + 1), -1, -1)]


def _encode_each(rows: list[Cells]) -> memoryview:
    """The rows' msgpack, one behind the other: that of the list without its head."""
    head_bytes = 1 if len(rows) < 16 else 3 if len(rows) < 1 << 16 else 5
    return memoryview(_encode(rows))[head_bytes:]
