"""The processes of the demo: started, watched until they are ready, and ended, each by its process id.

Each writes to a log file in the demo's directory; the first line there says that it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path

from pubsub.cli.run import own_command
from pubsub.errors import InternalError

READY_SECONDS = 10.0
GONE_SECONDS = 2.0
_POLL_SECONDS = 0.02


class DemoProcess:
    """One process.

    Args:
        arguments: A module of ours, and what it is called with.
        log: What it prints goes there."""

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, also again."""
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*own_command(self._arguments[0]), *self._arguments[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who end them in order; and --keep outlives the terminal
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    async def ready(self) -> str:
        """Wait for the line that says so, and return it.

        Raises:
            InternalError: it ended, or took too long; the message shows what it said last.
        """
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            lines = self.lines()
            for line in lines:
                if not line.startswith("pubsub:"):
                    return line
            if not self.running:
                said = lines[-1] if lines else "nothing"
                raise InternalError(f"the demo cannot go on: {self.name} ended, and said last: {said}")
            await asyncio.sleep(_POLL_SECONDS)
        raise InternalError(
            f"the demo cannot go on: {self.name} was not ready in {READY_SECONDS:g} s; see {self.log}"
        )

    def lines(self) -> list[str]:
        """The complete lines that it has printed."""
        return self.log.read_text(errors="replace").split("\n")[:-1] if self.log.exists() else []

    def last_line(self, beginning: str) -> str | None:
        """The newest of its complete lines that begins so."""
        return next((line for line in reversed(self.lines()) if line.startswith(beginning)), None)

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        await self._end(signal.SIGKILL, GONE_SECONDS)

    async def end(self, seconds: float) -> None:
        """SIGTERM; if that does not help within so many seconds, kill -9. Idempotent."""
        if self.running and not await self._end(signal.SIGTERM, seconds):
            await self.kill()

    async def _end(self, number: signal.Signals, seconds: float) -> bool:
        assert self._process is not None
        self._process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, seconds)
        return not self.running


async def end_all(processes: list[DemoProcess], seconds: float) -> None:
    """End them all at once; an error about one does not keep the others alive."""
    results = await asyncio.gather(*(process.end(seconds) for process in processes), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
