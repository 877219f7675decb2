"""Servers that take long to start: one of each serves a whole run, suspended while others are measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.stage import Child, Stage

Started = tuple[Child, dict[str, Any]]
"""A server, and what its users need to know of it."""


class Kept:
    """See the module's text. Use it as `async with Kept(...) as kept:`."""

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent
        self._servers: dict[str, tuple[Stage, Started]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def resume(self, name: str, start: Callable[[Stage], Awaitable[Started]]) -> Started:
        """The server of this name; `start` starts it where there is none yet, or not any more."""
        if name in self._servers and self._servers[name][1][0].process.returncode is not None:
            await _close(self._servers.pop(name)[0])
        if name not in self._servers:
            stage = await Stage(quick=False, parent=self._parent).__aenter__()
            try:
                self._servers[name] = stage, await start(stage)
            except BaseException:
                await _close(stage)
                raise
        _, started = self._servers[name]
        started[0].resume()
        return started

    def suspend(self) -> None:
        """A measurement is over."""
        for _, (child, _) in self._servers.values():
            child.suspend()

    async def end(self) -> None:
        """End all: the run is over, or a measurement has failed, and nobody knows what it left behind."""
        while self._servers:
            await _close(self._servers.popitem()[1][0])


async def _close(stage: Stage) -> None:
    await stage.__aexit__(None, None, None)
