"""An owner that says nothing may own its topic no more: an index is asked.

A connection to a process that was stopped, or to a machine that was cut off, stays open for long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pubsub.client.outgoing_batch import OutgoingBatch
from pubsub.client.routes import Route, Routes

log = logging.getLogger("pubsub.client")

SILENCE_SECONDS = 1.0
"""The owner of a replicated topic that has not answered for so long is in doubt."""


class OwnerWatch:
    """Watches over what one lane has in flight.

    Args:
        in_flight: The lane's batches, oldest first.
        route: The way that they went.
        leave: Called with that way when another peer owns the topic.
    """

    def __init__(
        self,
        topic: str,
        routes: Routes,
        in_flight: Callable[[], Sequence[OutgoingBatch]],
        route: Callable[[], Route | None],
        leave: Callable[[Route], None],
    ) -> None:
        self._topic = topic
        self._routes = routes
        self._in_flight = in_flight
        self._route = route
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._closed = False

    def watch(self, batch: OutgoingBatch) -> None:
        """See after a while whether `batch` has had a reply; one that is watched already comes first."""
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(SILENCE_SECONDS, self._check, batch)

    def _check(self, batch: OutgoingBatch) -> None:
        self._timer = None
        in_flight = self._in_flight()
        if batch in in_flight and self._asking is None:
            self._asking = asyncio.create_task(
                self._ask(), name=f"pubsub: does its owner still own {self._topic}"
            )
            self._asking.add_done_callback(self._asked)
        elif in_flight:
            self.watch(in_flight[0])

    async def _ask(self) -> None:
        route = self._route()
        if route is not None and await self._routes.moved(route, SILENCE_SECONDS):
            self._leave(route)

    def _asked(self, asking: asyncio.Task[None]) -> None:
        self._asking = None
        if not asking.cancelled() and asking.exception() is not None:
            log.error("looking for the owner of %s failed", self._topic, exc_info=asking.exception())
        if in_flight := self._in_flight():
            self.watch(in_flight[0])

    async def close(self) -> None:
        """Watch no more. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
