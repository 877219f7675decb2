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
        self._stage = Stage(quick=False, parent=parent)
        self._started: dict[str, Started] = {}

    async def __aenter__(self) -> Self:
        await self._stage.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stage.__aexit__(kind, error, trace)

    async def resume(self, name: str, start: Callable[[Stage], Awaitable[Started]]) -> Started:
        """The server of this name; `start` starts it where there is none yet, or not any more."""
        started = self._started.get(name)
        if started is None or started[0].process.returncode is not None:
            started = self._started[name] = await start(self._stage)
        started[0].resume()
        return started

    def suspend(self) -> None:
        """A measurement is over."""
        for child, _ in self._started.values():
            child.suspend()
