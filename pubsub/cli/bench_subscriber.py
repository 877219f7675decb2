"""A subscriber of `pubsub bench`: takes messages batch by batch and checks that each came, once, in order.

Latency to the delivery is that of each message: from its instant until `next_batch()` has handed it over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from pubsub.cli.bench_messages import Check
from pubsub.cli.bench_talk import Delivered, Task
from pubsub.client.client import Client

SILENCE_SECONDS = 10.0
"""When nothing has come for so long after the last publish, what is missing is lost."""

LINGER_SECONDS = 0.2
"""After the last message: for any that come twice."""

_LOOK_SECONDS = 0.02


class Subscriber:
    """One of the subscribers; it has a client of its own."""

    def __init__(self, client: Client, task: Task) -> None:
        self._check = Check(task.first_stream, task.streams, task.size_bytes)
        self._subscription = client.subscribe(task.topic, start="latest")
        self._ended_ns = 0
        self._stopping = asyncio.Event()

    @property
    def received(self) -> int:
        """How many messages so far."""
        return self._check.came.received

    async def open(self) -> None:
        """Subscribe: whatever is published from now on comes."""
        await self._subscription.open()

    async def receive(self) -> None:
        """Take messages until cancelled."""
        check, subscription = self._check, self._subscription
        while True:
            messages = await subscription.next_batch()
            now_ns = time.monotonic_ns()
            before = check.came.received
            check.take([message.payload for message in messages], now_ns)
            if check.came.received > before:
                self._ended_ns = now_ns

    def stop(self) -> None:
        """Wait no longer for what has not come."""
        self._stopping.set()

    async def finish(self, published: Sequence[int]) -> Delivered:
        """Wait until all has come, or nothing for a while. `receive` must be running beside it."""
        loop = asyncio.get_running_loop()
        seen, heard_at = self.received, loop.time()
        while not self._check.whole(published) and not self._stopping.is_set():
            if self.received != seen:
                seen, heard_at = self.received, loop.time()
            elif loop.time() >= heard_at + SILENCE_SECONDS:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        if not self._stopping.is_set():
            await asyncio.sleep(LINGER_SECONDS)
        came = self._check.ended(published, waited=not self._stopping.is_set())
        return Delivered(came=came, latency=self._check.latency, ended_ns=self._ended_ns)
