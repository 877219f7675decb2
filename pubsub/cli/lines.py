"""Lines of standard input, read by a thread and taken by the event loop in chunks: whatever has arrived by then.

A line of `tail -f` is there at once, and a file comes in large chunks. Bytes stay as they are: no decoding, only
the newline goes. Memory is bounded: the thread waits while CHUNK_BYTES are untaken.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator

READ_BYTES = 256 * 1024
CHUNK_BYTES = 4 * 1024 * 1024
"""Untaken at most (and once more while it is being published)."""

_LINE_COST_BYTES = 64
"""What a line takes besides its bytes; counts empty lines too."""


class Lines:
    """Lines read from a file descriptor. Belongs to the event loop that makes it.

    Args:
        line_bytes: A longer line is not read to its end: what has been read of it is given out, being too
            large already, and is the last.
    """

    def __init__(self, descriptor: int, line_bytes: int) -> None:
        self._descriptor = descriptor
        self._line_bytes = line_bytes
        self._loop = asyncio.get_running_loop()
        self._room = threading.Condition()
        self._arrived = asyncio.Event()
        # Under the lock of `_room`:
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._ended = False
        self._error: OSError | None = None
        self.stopped = False
        self.read_bytes = 0
        """Taken from the descriptor so far."""
        # A daemon: nothing can wake it from its read, and nothing is lost with it.
        threading.Thread(target=self._read, name="pubsub: read lines", daemon=True).start()

    async def take(self) -> list[bytes]:
        """All lines that have arrived, at least one; none at the end.

        Raises:
            OSError: reading failed, after all lines before have been taken.
        """
        while True:
            await self._arrived.wait()
            with self._room:
                lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
                self._room.notify()
                if self.stopped or (self._ended and not lines and self._error is None):
                    return []
                if lines:
                    return lines
                if self._error is not None:
                    raise self._error
                self._arrived.clear()

    def until_stopped(self, lines: list[bytes]) -> Iterator[bytes]:
        """The lines of a chunk, as long as nobody has called `stop`."""
        for line in lines:
            if self.stopped:
                return
            yield line

    def stop(self) -> None:
        """Give out no more."""
        self.stopped = True
        self._arrived.set()
        with self._room:
            self._room.notify()

    def _read(self) -> None:
        rest = b""
        try:
            while data := os.read(self._descriptor, READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                too_long = len(rest) > self._line_bytes
                if not self._add([*lines, rest] if too_long else lines, len(data)) or too_long:
                    rest = b""
                    break
            self._add([rest] if rest else [], 0)
            self._end(None)
        except OSError as error:
            self._end(error)

    def _add(self, lines: list[bytes], size_bytes: int) -> bool:
        with self._room:
            while self._waiting_bytes >= CHUNK_BYTES and not self.stopped:
                self._room.wait()
            self.read_bytes += size_bytes
            self._waiting += lines
            self._waiting_bytes += sum(map(len, lines)) + len(lines) * _LINE_COST_BYTES
            if lines:
                self._wake()
            return not self.stopped

    def _end(self, error: OSError | None) -> None:
        with self._room:
            self._ended, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody takes lines any more
            self._loop.call_soon_threadsafe(self._arrived.set)
