"""What the demo shows while it runs and when it is over: a live table on a terminal, else lines on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One topic at a moment."""

    topic: str
    owner: str
    state: str
    published: int
    received: tuple[int, ...]
    """By each subscriber."""
    reading: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. `lost` and `doubled` count over all subscribers."""

    published: int
    delivered: int
    """By all subscribers together."""
    lost: int
    doubled: int
    rate: int
    """Published per second, from the first publish to the last delivery."""
    burst_rate: int
    """Published per second by one publisher within a burst."""
    p50_ms: float
    p99_ms: float
    """From a single publish to its acknowledgement, which is after the fsync."""
    subscribers: int
    peers: int
    seconds: float
    restarted: str
    """The peer that was killed and came back."""
    away_seconds: float

    @property
    def flawless(self) -> bool:
        """Whether everything came, once."""
        return self.lost == 0 and self.doubled == 0 and self.published > 0


class View:
    """Shows progress on stderr, so that stdout holds the result alone."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._events: list[str] = []
        self._shown_at = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While this is entered, there is a live table if stderr is a terminal."""
        if sys.stderr is None or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.live import Live

        try:
            with Live(console=Console(stderr=True), refresh_per_second=10, transient=False) as self._live:
                yield
        finally:
            self._live = None

    def event(self, text: str) -> None:
        """Something happened that is worth a line."""
        self._events.append(text)
        if self._live is None:
            self._print(text)
        elif not self._shown_at:
            self._live.console.print(text, highlight=False)

    def progress(self, second: float, rows: list[Row]) -> None:
        """Show how things stand."""
        if self._live is not None:
            self._live.update(_table(second, rows))
        elif int(second) > self._shown_at:
            received = " + ".join(
                f"{sum(row.received[i] for row in rows):,}" for i in range(len(rows[0].received))
            )
            states = ", ".join(f"{row.owner} {row.state}" for row in rows)
            self._print(
                f"{second:4.0f} s  published {sum(r.published for r in rows):,}  received {received}  {states}"
            )
            self._shown_at = int(second)

    def _print(self, text: str) -> None:
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)


def _table(second: float, rows: list[Row]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = f"live readings of this machine, {second:.1f} s"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", expand=True)
    for name in ("topic", "owner", "state"):
        table.add_column(name, no_wrap=True, min_width=max(len(getattr(row, name)) for row in rows))
    for name in ("published", *(f"subscriber {number + 1}" for number in range(len(rows[0].received)))):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("newest reading", overflow="ellipsis", no_wrap=True, ratio=1)
    for row in rows:
        state = Text(row.state, style="green" if row.state == "online" else "bold red")
        received = (f"{count:,}" for count in row.received)
        table.add_row(
            row.topic, row.owner, state, f"{row.published:,}", *received, Text(row.reading, style="dim")
        )
    return table


def summary_lines(summary: Summary) -> list[str]:
    """The summary for people."""
    return [
        f"published  {summary.published:,} readings to {summary.peers} peers, each on disk before its acknowledgement",
        f"delivered  {summary.delivered:,} to {summary.subscribers} subscribers, in order",
        f"lost       {summary.lost}",
        f"doubled    {summary.doubled}",
        f"rate       {summary.rate:,} messages/s over all; in a burst {summary.burst_rate:,}/s by one publisher",
        f"latency    p50 {summary.p50_ms:.2f} ms, p99 {summary.p99_ms:.2f} ms, from publish to acknowledgement",
        f"restarted  {summary.restarted}: kill -9 in the middle, away for {summary.away_seconds:.1f} s",
    ]
