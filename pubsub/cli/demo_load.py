"""What the demo publishes: readings at a steady pace, each awaited, for the latency; and bursts, for the volume.

Every second begins with single publishes and ends with a burst, of all topics at the same time, so that the
latency is that of a peer which is not busy with a burst.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from pubsub.cli.demo_readings import Reading
from pubsub.client.client import Client

PACE_SECONDS = 0.005
STEADY_SECONDS = 0.6
BURST_MESSAGES = 2000
MAKING_SECONDS = 0.4
"""A burst is smaller where so many readings take longer: a busy machine is not made busier."""
_AT_ONCE = 50
"""Readings made without a look at anything else."""


class Load:
    """Publishes to one topic, numbers the readings from 0 on, and keeps the score."""

    def __init__(
        self, client: Client, topic: str, read: Callable[[], Reading], key: str, acks: str | None = None
    ) -> None:
        self.topic = topic
        self.published = 0
        """Acknowledged."""
        self.newest: Reading = {}
        self.acknowledged_at: list[float] = []
        """When an acknowledgement came, of one reading or of a burst; the event loop's time."""
        self.latencies_ms: list[float] = []
        self.burst_seconds = 0.0
        self.burst_messages = 0
        self._client = client
        self._read = read
        self._key = key
        self._acks = acks
        self._number = 0

    async def run(self, over: asyncio.Event) -> None:
        """Publish until it is over; what is under way then is still acknowledged."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not over.is_set():
            second = began + int(loop.time() - began)
            while loop.time() < second + STEADY_SECONDS and not over.is_set():
                await self._publish_one()
            await asyncio.sleep(max(0, second + STEADY_SECONDS - loop.time()))
            if not over.is_set():
                await self._publish_burst()
            await asyncio.sleep(max(0, second + 1 - loop.time()))

    async def _publish_one(self) -> None:
        payload = self._payload()
        began = time.perf_counter()
        await self._client.publish(self.topic, payload, key=self._key, acks=self._acks)
        took = time.perf_counter() - began
        self._acknowledged(1)
        self.latencies_ms.append(took * 1000)
        await asyncio.sleep(max(0, PACE_SECONDS - took))

    async def _publish_burst(self) -> None:
        payloads: list[bytes] = []
        made_by = time.perf_counter() + MAKING_SECONDS
        while len(payloads) < BURST_MESSAGES and time.perf_counter() < made_by:
            payloads += [self._payload() for _ in range(_AT_ONCE)]
            await asyncio.sleep(0)
        began = time.perf_counter()
        offsets = await self._client.publish_many(self.topic, payloads, key=self._key, acks=self._acks)
        self.burst_seconds += time.perf_counter() - began
        self.burst_messages += len(offsets)
        self._acknowledged(len(offsets))

    def _acknowledged(self, count: int) -> None:
        self.published += count
        self.acknowledged_at.append(asyncio.get_running_loop().time())

    def _payload(self) -> bytes:
        self.newest = self._read()
        payload = msgspec.json.encode({"n": self._number, **self.newest})
        self._number += 1
        return payload


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; 0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
