"""How long many things took, in bounded memory: a histogram whose buckets grow with what they hold.

As in HdrHistogram (Gil Tene): each power of two is cut into the same number of buckets, here 128, so a bucket is at
most 1/128 of its values wide. A percentile is told as the highest value of its bucket: never too small, and at most
0.8 % too large; the maximum is exact. All of 64-bit time takes 7,424 buckets, of which those in use are kept, and
histograms of several processes are added up by adding their counts.

Nothing here reads a clock. Values are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

_BITS = 7
"""Each power of two has 2 ** _BITS buckets."""

RELATIVE_ERROR = 1 / 2**_BITS
"""By at most so much of itself a percentile is told too large."""

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}


class Histogram(msgspec.Struct):
    """Counts by bucket."""

    counts: dict[int, int] = {}
    """Bucket -> how many values fell into it."""
    total: int = 0
    max_ns: int = 0

    def record(self, value_ns: int, count: int = 1) -> None:
        """Take in a value, `count` times. A negative one, of clocks that disagree, counts as 0."""
        value_ns = max(0, value_ns)
        bucket = bucket_of(value_ns)
        self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += count
        self.max_ns = max(self.max_ns, value_ns)

    def percentile(self, share: float) -> int | None:
        """What at least `share` of the values do not exceed; None without values."""
        below = 0
        for bucket in sorted(self.counts):
            below += self.counts[bucket]
            if below >= share * self.total:
                return min(highest_of(bucket), self.max_ns)
        return None

    def shares_up_to(self, edges_ns: Sequence[int]) -> list[float]:
        """The share of the values between each edge and the one before; a bucket counts where its highest lies."""
        counts = [0] * len(edges_ns)
        for bucket, count in self.counts.items():
            value = min(highest_of(bucket), self.max_ns)
            position = next((n for n, edge in enumerate(edges_ns) if value <= edge), None)
            if position is not None:
                counts[position] += count
        return [count / self.total if self.total else 0.0 for count in counts]


def bucket_of(value_ns: int) -> int:
    """The bucket of a value from 0 on."""
    shift = max(0, value_ns.bit_length() - _BITS - 1)
    return (shift << _BITS) + (value_ns >> shift)


def highest_of(bucket: int) -> int:
    """The largest value of a bucket."""
    shift = max(0, (bucket >> _BITS) - 1)
    return ((bucket - (shift << _BITS) + 1) << shift) - 1


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """One that holds the values of all."""
    whole = Histogram()
    for histogram in histograms:
        for bucket, count in histogram.counts.items():
            whole.counts[bucket] = whole.counts.get(bucket, 0) + count
        whole.total += histogram.total
        whole.max_ns = max(whole.max_ns, histogram.max_ns)
    return whole


def band_edges(smallest_ns: int, largest_ns: int) -> list[int]:
    """Upper edges of bands for people: 1, 2, 5, 10, 20 …, from that of the smallest to that of the largest."""
    edges: list[int] = []
    decade = 1
    while not edges or edges[-1] < largest_ns:
        edges += [edge for edge in (decade, 2 * decade, 5 * decade) if edge >= smallest_ns]
        decade *= 10
    while len(edges) > 1 and edges[-2] >= largest_ns:
        edges.pop()
    return edges
