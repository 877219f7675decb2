"""Servers that take long to start: one of each serves a whole run, suspended while others are measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
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
        self._servers: dict[str, tuple[Started, AsyncExitStack]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def resume(self, name: str, start: Callable[[Stage], Awaitable[Started]]) -> Started:
        """The server of this name; `start` starts it where there is none yet, or not any more."""
        if name in self._servers and self._servers[name][0][0].process.returncode is not None:
            await self._servers.pop(name)[1].aclose()
        if name not in self._servers:
            async with AsyncExitStack() as closing:
                stage = await closing.enter_async_context(Stage(quick=False, parent=self._parent))
                self._servers[name] = await start(stage), closing.pop_all()
        started, _ = self._servers[name]
        started[0].resume()
        return started

    def suspend(self) -> None:
        """A measurement is over."""
        for (child, _), _ in self._servers.values():
            child.suspend()

    async def end(self) -> None:
        """End all: the run is over, or a measurement has failed, and nobody knows what it left behind."""
        while self._servers:
            _, (_, closing) = self._servers.popitem()
            await closing.aclose()
