"""What the demo shows while it runs: a live table on a terminal, else lines on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


_WIDTHS = {"owner": len("carol"), "state": len("offline"), "copies": len("3 of 3")}
"""So wide from the start on, so that the table does not move."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One topic at a moment."""

    topic: str
    owner: str
    state: str
    copies: str
    """How many are in sync."""
    published: int
    received: tuple[int, ...]
    """By each subscriber."""
    reading: str


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
            offline = ", ".join(row.topic for row in rows if row.state != "online")
            state = f"offline: {offline}" if offline else "all online"
            self._print(
                f"{second:4.0f} s  published {sum(r.published for r in rows):,}  received {received}  {state}"
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
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", expand=True, padding=(0, 1, 0, 0))
    for name in ("topic", "owner", "state", "copies"):
        longest = max(len(getattr(row, name)) for row in rows)
        table.add_column(name, no_wrap=True, min_width=max(longest, _WIDTHS.get(name, 0)))
    table.add_column("published", justify="right", no_wrap=True, min_width=9)
    for number in range(len(rows[0].received)):  # with room for its words below each other
        table.add_column(f"subscriber {number + 1}", justify="right", min_width=10)
    table.add_column("newest reading", overflow="ellipsis", no_wrap=True, ratio=1)
    for row in rows:
        state = Text(row.state, style="green" if row.state == "online" else "bold red")
        received = (f"{count:,}" for count in row.received)
        table.add_row(
            row.topic,
            row.owner,
            state,
            row.copies,
            f"{row.published:,}",
            *received,
            Text(row.reading, style="dim"),
        )
    return table
