"""When what happens in the demo, and by when it must be over: under 20 s in all.

A machine that is not busy takes the times of the first part; one that started all slowly leaves out what is only
there to be watched. The second part bounds every wait, counted from the start of the demo; what is not there by
then is not waited for. Not counted: how long a very busy machine takes to start and to end this process itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

TTL_SECONDS = 2
"""Of the index. So short that the table shows the killed peer's topic offline, and the failover comes soon."""
PUBLISH_SECONDS = 8.0
"""How long is published at least."""
KILL_AT_SECONDS = 2.2
"""From the first publish; no burst is under way then."""
SLOW_START_SECONDS, KILL_SOON_SECONDS = 4.0, 1.2
"""On a machine that took longer than the one to start all, it is done after the other, and nobody stays away."""
AWAY_SECONDS = 3.0
"""How long the killed peer is away at least."""

TAKEN_OVER_SECONDS = 12.5
"""If no peer has become the new owner by then, the old one is started again all the same."""
PUBLISHED_SECONDS = 13.5
"""Nothing new is published from then on."""
DELIVERED_SECONDS = 17.0
"""What has not come to the subscribers by then is lost."""
OVER_SECONDS = 17.5
"""A demo that is not over by then is given up."""
ENDED_SECONDS = 18.5
"""Processes that have not ended by then are killed."""

_LOOK_SECONDS = 0.05


class Schedule:
    """The time since the start of the demo."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self.kill_after_seconds = KILL_AT_SECONDS
        self.away_seconds = AWAY_SECONDS

    def left(self, second: float) -> float:
        """Seconds until then; 0 if it is past."""
        return max(0.0, self.began + second - self._loop.time())

    def publishing_begins(self) -> None:
        """To be called at the first publish: decides whether there is time to watch."""
        if not self.left(SLOW_START_SECONDS):
            self.kill_after_seconds, self.away_seconds = KILL_SOON_SECONDS, 0.0

    async def until(self, condition: Callable[[], Awaitable[bool]], second: float) -> bool:
        """Wait until it holds, but not beyond that second; returns whether it does."""
        try:
            async with asyncio.timeout_at(self.began + second):
                while True:
                    if await condition():
                        return True
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            return False
