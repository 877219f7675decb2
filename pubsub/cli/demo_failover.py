"""The middle of the demo: the owner of the replicated topic is killed with -9, another takes over, it returns.

Its topic of one copy is offline meanwhile; the replicated one only pauses. Which peer is killed and which one
takes over is what the index says, and the pause is what the publisher saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise

from pubsub.cli.demo_schedule import PUBLISHED_SECONDS, TAKEN_OVER_SECONDS, Schedule
from pubsub.cli.demo_site import REPLICATED, DemoSite
from pubsub.client.client import Client


class Failover:
    """Makes it happen, and keeps what was seen of it."""

    def __init__(
        self, client: Client, site: DemoSite, schedule: Schedule, say: Callable[[str], None]
    ) -> None:
        self.old_owner = ""
        self.new_owner: str | None = None
        """None as long as nobody has taken over."""
        self.killed_at = 0.0
        self.taken_over_at = 0.0
        """When the index named the new owner; the publisher may have known it earlier."""
        self.away_seconds = 0.0
        self._client = client
        self._site = site
        self._schedule = schedule
        self._say = say

    async def kill_owner(self) -> None:
        """Kill the owner, and wait for the new one."""
        loop = asyncio.get_running_loop()
        topic = await self._client.topic(REPLICATED)
        self.old_owner, epoch = topic.owner, topic.epoch
        process = self._site.process(self.old_owner)
        self._say(f"kill -9 {process.pid}: {self.old_owner} is gone; who publishes to its topics tries on")
        self.killed_at = loop.time()
        await process.kill()

        async def taken_over() -> bool:
            topic = await self._client.topic(REPLICATED)
            if topic.epoch > epoch and topic.owner != self.old_owner and topic.online:
                self.new_owner, self.taken_over_at = topic.owner, loop.time()
            return self.new_owner is not None

        if await self._schedule.until(taken_over, TAKEN_OVER_SECONDS):
            after = self.taken_over_at - self.killed_at
            self._say(f"{self.new_owner} owns {REPLICATED} now, {after:.1f} s after the kill")

    async def bring_back(self) -> None:
        """Start the old owner again, and wait until it is in sync."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self.killed_at + self._schedule.away_seconds - loop.time()))
        await self._site.start_peer(self.old_owner).ready()
        self.away_seconds = loop.time() - self.killed_at
        self._say(f"{self.old_owner} is back with all its messages, after {self.away_seconds:.1f} s")

        async def in_sync() -> bool:
            return self.old_owner in (await self._client.topic(REPLICATED)).in_sync

        if await self._schedule.until(in_sync, PUBLISHED_SECONDS):
            self._say(f"{self.old_owner} has all of {REPLICATED} again, and is in sync")

    def pause_seconds(self, acknowledged_at: Sequence[float]) -> float | None:
        """How long the publisher waited for its next acknowledgement; None if nobody has taken over."""
        if self.new_owner is None:
            return None
        return longest_gap(acknowledged_at, self.killed_at, self.taken_over_at)


def longest_gap(times: Sequence[float], after: float, before: float) -> float | None:
    """The longest time between neighbours that ends later than `after` and begins earlier than `before`.

    Args:
        times: In their order.

    Returns: None if there is none.
    """
    return max(
        (end - begin for begin, end in pairwise(times) if end > after and begin < before), default=None
    )
