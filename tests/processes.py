"""Real processes of the installed command, for tests: started on free ports, ended by process id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Self

READY_SECONDS = 20.0


class Command:
    """A running `pubsub …`; `async with` waits until it says that it serves, and ends it."""

    def __init__(self, *arguments: str, cwd: Path, index: str = "") -> None:
        self.arguments = arguments
        self.cwd = cwd
        self.said: list[str] = []
        """What it has printed, both streams, line by line."""
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PUBSUB_INDEX": index}
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def start(self) -> None:
        """Start it, and wait for its ready line."""
        self._ready.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "pubsub",
            *self.arguments,
            cwd=self.cwd,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._listener = asyncio.create_task(self._listen(self._process))
        async with asyncio.timeout(READY_SECONDS):
            await self._ready.wait()
        if self._process.returncode is not None or " serves " not in "".join(self.said):
            raise AssertionError(f"pubsub {' '.join(self.arguments)} did not start: {self.said}")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.said.append(line.decode().rstrip("\n"))
            if " serves " in self.said[-1]:
                self._ready.set()
        self._ready.set()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        assert self._process is not None
        assert self._listener is not None
        async with asyncio.timeout(READY_SECONDS):
            code = await self._process.wait()
            await self._listener
        return code

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.signal(signal.SIGCONT)
        await self.kill()
