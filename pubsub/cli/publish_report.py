"""What `pubsub publish` says about its progress: offsets as JSON, a bar on a terminal, the line at the end."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from pubsub.cli.run import note
from pubsub.cli.stdout import StandardOutput

if TYPE_CHECKING:
    from rich.progress import Progress


class Report:
    """Counts acknowledged messages; keeps none of their offsets but the first and the last."""

    def __init__(self, topic: str, as_json: bool, later: bool = False) -> None:
        self._topic = topic
        self._as_json = as_json
        self._done, self._word = ("scheduled", "schedule id") if later else ("published", "offset")
        """What becomes of the messages, and what their numbers are."""
        self._output = StandardOutput()
        self.count = 0
        self.unsure = 0
        """How many were sent and neither acknowledged nor refused."""
        self._first = 0
        self._next = 0
        self._gaps = False
        self._bar: Progress | None = None

    async def acknowledged(self, offsets: Sequence[int]) -> None:
        """Take in that these are stored."""
        if not offsets:
            return
        first, last = offsets[0], offsets[-1]
        if not self.count:
            self._first = self._next = first
        self._gaps = self._gaps or first != self._next or last - first != len(offsets) - 1
        self._next = last + 1
        self.count += len(offsets)
        if self._as_json:
            field = self._word.replace(" ", "_").encode()
            head = b'{"topic":%b,"%b":' % (msgspec.json.encode(self._topic), field)
            holders = getattr(offsets, "in_sync", None)  # of a replicated topic: who has them
            tail = b"}\n" if holders is None else b',"in_sync":%b}\n' % msgspec.json.encode(list(holders))
            await self._output.write(b"".join([b"%b%d%b" % (head, offset, tail) for offset in offsets]))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._position(), count=self.count)

    def offsets_text(self) -> str:
        """The offsets as people write them."""
        last = self._next - 1
        if self.count == 0:
            return ""
        text = f"{self._word} {last}" if self.count == 1 else f"{self._word}s {self._first}..{last}"
        return f"{text}, with others' in between" if self._gaps else text

    def acknowledged_text(self) -> str:
        """How many were acknowledged, for a message about an early end."""
        if not self.count:
            return "no message was acknowledged"
        word = "message was" if self.count == 1 else "messages were"
        return f"{self.count} {word} acknowledged, {self.offsets_text()}"

    def finish(self, code: int) -> None:
        """Say that all are published; or, with an exit `code`, how many were before somebody said stop."""
        if code:
            more = f"; up to {self.unsure} more may be stored too" if self.unsure else ""
            note(f"stopped: {self.acknowledged_text()}{more}")
            return
        if self._as_json:
            return
        word = "message" if self.count == 1 else "messages"
        where = f", {self.offsets_text()}" if self.count else ""
        print(f"{self._done} {self.count} {word} to {self._topic}{where}", flush=True)

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show a bar while lines are published, where a person watches and does not type the lines."""
        if sys.stdin.isatty():
            note("one message per line; Ctrl-D ends")
        mixed_up = self._as_json and sys.stdout is not None and sys.stdout.isatty()
        if sys.stdin.isatty() or sys.stderr is None or not sys.stderr.isatty() or mixed_up:
            yield
            return
        self._bar = _make_bar(_stdin_bytes())
        try:
            with self._bar:
                yield
        finally:
            self._bar = None

    def _position(self) -> int | None:
        return os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR) if _stdin_bytes() is not None else None


def _stdin_bytes() -> int | None:
    """Size of the file that is standard input, None when it is something else."""
    status = os.fstat(sys.stdin.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _make_bar(total_bytes: int | None) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = [SpinnerColumn(), TextColumn("{task.fields[count]:,} messages acknowledged")]
    if total_bytes is not None:
        columns += [BarColumn(), TaskProgressColumn()]
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
    bar.add_task("publish", total=total_bytes, count=0)
    return bar
