"""What came of a measurement: the fields of --json, and the words, the table and the histogram for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from pubsub.cli.bench_histogram import PERCENTILES, Histogram, band_edges
from pubsub.cli.output import aligned, on_terminal

BAR_WIDTH = 24
_NS_PER_MS = 1_000_000


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles, in ms; None where nothing was measured. At most 0.8 % too large, never too small; max is exact."""

    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        """Those of a histogram."""
        values = {name: histogram.percentile(share) for name, share in PERCENTILES.items()}
        values["max"] = histogram.max_ns if histogram.total else None
        return cls(**{name: None if ns is None else round(ns / _NS_PER_MS, 3) for name, ns in values.items()})


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. What is delivered, lost, doubled and out of order counts over all subscribers."""

    topic: str
    owner: str
    publishers: int
    subscribers: int
    size_bytes: int
    rate: int | None
    """What --rate asked for, messages a second."""
    seconds: float
    """From the beginning to the last acknowledgement."""
    published: int
    """Acknowledged."""
    delivered: int
    """To all subscribers together."""
    published_per_second: int
    delivered_per_second: int
    """Over the time from the beginning to the last delivery."""
    ack_ms: Latency
    delivery_ms: Latency
    lost: int
    doubled: int
    out_of_order: int
    undelivered: int
    """Were still to come when Ctrl-C ended the wait for them."""
    interrupted: bool

    @property
    def flawless(self) -> bool:
        """Whether everything came, once, in order."""
        return self.lost == 0 and self.doubled == 0 and self.out_of_order == 0


class Finding(NamedTuple):
    """A result with the histograms behind it."""

    result: Result
    acks: Histogram
    deliveries: Histogram


def print_finding(finding: Finding) -> None:
    """Print a finding for people."""
    print("\n".join([*summary_lines(finding.result), "", *latency_lines(finding.result)]))
    rows = histogram_rows((finding.acks, finding.deliveries))
    if not rows:
        return
    print()
    if on_terminal():
        _print_histogram(rows)
    else:
        print("\n".join(aligned([_HEADS, *([e, bar(a), p, bar(b), q] for e, a, p, b, q in rows)])))


def summary_lines(result: Result) -> list[str]:
    """What was done, and what came of it."""
    publishers, subscribers = _many(result.publishers, "publisher"), _many(result.subscribers, "subscriber")
    wanted = "" if result.rate is None else f" of the {result.rate:,} asked for"
    bytes_per_second = result.published_per_second * result.size_bytes
    rest = [f"undelivered   {result.undelivered:,}: Ctrl-C came first"] if result.undelivered else []
    return [
        f"topic         {result.topic} on {result.owner}: {publishers}, {subscribers}, "
        f"{result.size_bytes:,} B a message",
        f"published     {result.published:,} in {result.seconds:.1f} s, each on disk before its acknowledgement: "
        f"{result.published_per_second:,}/s{wanted}, {bytes_per_second / 1e6:,.1f} MB/s",
        f"delivered     {result.delivered:,}: {result.delivered_per_second:,}/s",
        f"lost          {result.lost:,}",
        f"doubled       {result.doubled:,}",
        f"out of order  {result.out_of_order:,}",
        *rest,
    ]


def latency_lines(result: Result) -> list[str]:
    """The percentiles as a table."""
    latencies = {"publish to acknowledgement": result.ack_ms, "publish to delivery": result.delivery_ms}
    heads = ["latency, ms", *(name.replace("_", ".") for name in Latency.__struct_fields__)]
    rows = [
        [name, *(_milliseconds(getattr(latency, field)) for field in Latency.__struct_fields__)]
        for name, latency in latencies.items()
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in (heads, *rows)
    ]


_HEADS = ["up to ms", "acknowledgement", "", "delivery", ""]

Row = tuple[str, float, str, float, str]
"""Upper edge of a band; of each of two histograms the length of its bar, from 0 to 1, and its share in words."""


def histogram_rows(histograms: tuple[Histogram, Histogram]) -> list[Row]:
    """The two of them in common bands; none if nothing was measured."""
    measured = [histogram for histogram in histograms if histogram.total]
    if not measured:
        return []
    smallest = min(histogram.percentile(0.0) or 0 for histogram in measured)
    edges = band_edges(smallest, max(histogram.max_ns for histogram in measured))
    columns = [histogram.shares_up_to(edges) for histogram in histograms]
    longest = max(max(column) for column in columns)
    return [
        (f"{edge / _NS_PER_MS:g}", acks / longest, _share(acks), deliveries / longest, _share(deliveries))
        for edge, acks, deliveries in zip(edges, *columns, strict=True)
    ]


def bar(length: float, mark: str = "#", width: int = BAR_WIDTH) -> str:
    """A bar, of at least one mark if there is anything to show."""
    return mark * max(round(length * width), 1 if length else 0)


def _print_histogram(rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    mark = "█" if console.encoding.lower().startswith("utf") else "#"
    width = max(8, min(BAR_WIDTH, (console.width - 36) // 2))
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for position, head in enumerate(_HEADS):
        table.add_column(head, justify="left" if position in (1, 3) else "right", no_wrap=True)
    for edge, acks, ack_share, deliveries, delivery_share in rows:
        table.add_row(
            edge,
            Text(bar(acks, mark, width), style="cyan"),
            ack_share,
            Text(bar(deliveries, mark, width), style="green"),
            delivery_share,
        )
    console.print(table)


def _many(count: int, word: str) -> str:
    return f"1 {word}" if count == 1 else f"{count:,} {word}s"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _share(share: float) -> str:
    if share == 0:
        return ""
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"
