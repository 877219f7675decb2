"""What `pubsub bench` shows while it runs: a bar and live rates on stderr, if that is a terminal; else nothing."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

RATE_SECONDS = 1.0
"""Live rates are those of the last second or so."""


class Rates:
    """How fast some counts have grown of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, tuple[int, ...]]] = deque()

    def of(self, second: float, *counts: int) -> list[int]:
        """Take in how things stand; returns each count's growth per second."""
        seen = self._seen
        seen.append((second, counts))
        while len(seen) > 2 and seen[1][0] <= second - RATE_SECONDS:
            seen.popleft()
        before, then = seen[0]
        passed = second - before
        return [
            round((now - old) / passed) if passed > 0 else 0 for now, old in zip(counts, then, strict=True)
        ]


class View:
    """Shows progress."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._rates = Rates()

    @contextmanager
    def shown(self, seconds: float) -> Iterator[None]:
        """While this is entered, there is a bar if stderr is a terminal."""
        if sys.stderr is None or not sys.stderr.isatty():
            yield
            return
        self._bar = _make_bar(seconds)
        try:
            with self._bar:
                yield
        finally:
            self._bar = None

    def phase(self, text: str) -> None:
        """Say what is being done."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=text)

    def progress(self, second: float, published: int, delivered: int) -> None:
        """Show how things stand, so long after the beginning."""
        if self._bar is None:
            return
        rates = self._rates.of(second, published, delivered)
        text = f"{rates[0]:,}/s published, {rates[1]:,}/s delivered"
        self._bar.update(self._bar.task_ids[0], completed=second, text=text)


def _make_bar(seconds: float) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    bar.add_task("starting", total=seconds, text="")
    return bar
