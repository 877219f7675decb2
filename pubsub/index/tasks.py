"""Tasks of the index: each is named, and owned by the task group of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger("pubsub.index")

T = TypeVar("T")

Spawn = Callable[[Coroutine[Any, Any, None], str], object]
"""Starts a task in the server's group, under a name. What it raises stops the index."""


async def to_the_end(spawn: Spawn, coroutine: Coroutine[Any, Any, T], name: str) -> T:
    """Run a coroutine that must not stop half-way, even if whoever asked for it goes away.

    A request's task is cancelled when its connection breaks; what changes several records goes on.

    Raises:
        Exception: what the coroutine raised.
    """
    outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        try:
            result = await coroutine
        except asyncio.CancelledError:
            outcome.cancel()
            raise
        except Exception as error:
            if outcome.done():
                log.warning("%s failed after whoever asked had gone: %s", name, error)
            else:
                outcome.set_exception(error)
        else:
            if not outcome.done():
                outcome.set_result(result)

    spawn(run(), name)
    return await outcome
