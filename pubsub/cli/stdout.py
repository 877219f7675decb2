"""Standard output of commands that stream: never blocks the event loop, and notices when the reader goes away.

A pipe is written in pieces of at most PIPE_BUF bytes, each after the kernel has said that there is room, so that
a reader that pauses stops us from reading more and from nothing else. A terminal and a file are written as usual.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys


def occupy_standard_descriptors() -> None:
    """Open /dev/null for those of stdin, stdout and stderr that are closed.

    Else the first socket takes the number, and what somebody prints goes there; libuv refuses to run like that.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def abandon_stdout() -> None:
    """Send what is still buffered for stdout nowhere, so that the interpreter ends without a complaint."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class StandardOutput:
    """Writes bytes to standard output."""

    def __init__(self) -> None:
        self._stream = None if sys.stdout is None else sys.stdout.buffer
        self._pipe: int | None = None
        if self._stream is not None and stat.S_ISFIFO(os.fstat(self._stream.fileno()).st_mode):
            self._pipe = self._stream.fileno()

    async def write(self, data: bytes) -> None:
        """Hand all of `data` over.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        if self._pipe is None:
            if self._stream is not None:
                self._stream.write(data)
                self._stream.flush()
            return
        left = memoryview(data)
        while left:
            if not select.select([], [self._pipe], [], 0)[1]:
                await self._ready(write=True)
            left = left[os.write(self._pipe, left[: select.PIPE_BUF]) :]

    async def closed(self) -> None:
        """Return when the reader of the pipe has gone away; of anything else, never."""
        if self._pipe is None:
            await asyncio.get_running_loop().create_future()
        await self._ready(write=False)

    async def _ready(self, *, write: bool) -> None:
        """Wait for room; or, as nothing can be read from the writing end of a pipe, for its end."""
        assert self._pipe is not None
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        add, remove = (
            (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        )
        add(self._pipe, _settle, ready)
        try:
            await ready
        finally:
            remove(self._pipe)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
