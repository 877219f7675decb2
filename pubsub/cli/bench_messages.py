"""What a measurement publishes, and how a subscriber finds out whether all of it came, once, in order.

A message begins with two 64-bit words: its stream and its number within that, and the instant from which its latency
counts, in ns of the monotonic clock, which all processes of a machine share. A stream is what one caller publishes
one call after the other, so its order is certain. Streams are numbered from a random one on: messages of others in
the same topic are told apart.

Pure: instants and the random number are given. No step of Python for each message beyond what a comprehension costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise, repeat
from struct import Struct

import msgspec

from pubsub.cli.bench_histogram import Histogram

HEAD = Struct("=QQ")
_NUMBER_BITS = 32
STREAM_NUMBERS = 2**32
"""A stream's number is below this."""
_FILL = b"."

WARM = 0
"""Of a measurement's streams the one whose messages open connections, before the clock starts; nobody counts them."""


def make_payloads(stream: int, first: int, instants_ns: Sequence[int], size_bytes: int) -> list[bytes]:
    """Messages of a stream, numbered from `first` on, one for each instant."""
    word = (stream << _NUMBER_BITS) + first
    heads = map(HEAD.pack, range(word, word + len(instants_ns)), instants_ns)
    return list(map(bytes.__add__, heads, repeat(_FILL * (size_bytes - HEAD.size))))


class Came(msgspec.Struct, kw_only=True):
    """What came to a subscriber, or to several together."""

    received: int = 0
    doubled: int = 0
    out_of_order: int = 0
    """Came after a later one of their stream."""
    lost: int = 0
    undelivered: int = 0
    """Were still to come when nobody wanted to wait any longer."""


class _Stream:
    """One stream as it comes. All numbers below `next` have come, but for those in `missing`."""

    __slots__ = ("missing", "next")

    def __init__(self) -> None:
        self.next = 0
        self.missing: list[range] = []

    def take(self, first: int, count: int, came: Came) -> None:
        """Take in consecutive numbers."""
        came.received += count
        if first < self.next:
            again = min(count, self.next - first)
            late = sum(self._found(number) for number in range(first, first + again))
            came.out_of_order += late
            came.doubled += again - late
            first, count = first + again, count - again
        if count:
            if first > self.next:
                self.missing.append(range(self.next, first))
            self.next = first + count

    def _found(self, number: int) -> bool:
        """Whether a number was missing; then it is so no more."""
        for position, gap in enumerate(self.missing):
            if number in gap:
                parts = (range(gap.start, number), range(number + 1, gap.stop))
                self.missing[position : position + 1] = [part for part in parts if part]
                return True
        return False


class Check:
    """What one subscriber sees of a measurement.

    Args:
        first_stream: The random one.
        streams: How many there are.
    """

    def __init__(self, first_stream: int, streams: int, size_bytes: int) -> None:
        self.came = Came()
        self.latency = Histogram()
        """From the instant of each message to its delivery."""
        self._size_bytes = size_bytes
        self._lowest = first_stream << _NUMBER_BITS
        self._streams = [_Stream() for _ in range(streams)]

    def take(self, payloads: Iterable[bytes | None], at_ns: int) -> None:
        """Take in messages in the order in which they came, delivered at an instant."""
        size_bytes, head = self._size_bytes, HEAD.size
        heads = [p[:head] for p in payloads if p is not None and len(p) == size_bytes]
        words = memoryview(b"".join(heads)).cast("Q")
        numbers, instants = words[::2].tolist(), words[1::2].tolist()
        ours: list[int] = []
        for start, end in _runs(numbers):
            stream, number = divmod(numbers[start] - self._lowest, 1 << _NUMBER_BITS)
            if WARM < stream < len(self._streams):
                self._streams[stream].take(number, end - start, self.came)
                ours += instants[start:end]
        for instant, count in Counter(ours).items():
            self.latency.record(at_ns - instant, count)

    def whole(self, published: Sequence[int]) -> bool:
        """Whether all that was published, so many of each stream, has come."""
        return not self._absent(published)

    def ended(self, published: Sequence[int], waited: bool) -> Came:
        """What came of what was published. Not `waited`: what may still have come is not lost."""
        absent, gaps = self._absent(published), sum(len(gap) for s in self._streams for gap in s.missing)
        came = msgspec.structs.replace(self.came)
        came.lost, came.undelivered = (absent, 0) if waited else (gaps, absent - gaps)
        return came

    def _absent(self, published: Sequence[int]) -> int:
        return sum(
            max(0, count - stream.next) + sum(map(len, stream.missing))
            for stream, count in zip(self._streams, published, strict=True)
        )


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end of each run of consecutive numbers."""
    if not numbers:
        return []
    breaks = [n for n, (one, other) in enumerate(pairwise(numbers), 1) if other - one != 1]
    return list(pairwise([0, *breaks, len(numbers)]))


def sum_up(parts: Iterable[Came]) -> Came:
    """All of several subscribers together."""
    whole = Came()
    for part in parts:
        for field in Came.__struct_fields__:
            setattr(whole, field, getattr(whole, field) + getattr(part, field))
    return whole
