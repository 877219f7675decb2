"""A publisher of `pubsub bench`: some callers of `publish_many`, each awaiting one call after the other.

Flat out, every call is handed a portion: as many messages as the client sends in two batches, so that few frames
carry many. At a rate, a call takes what has become due meanwhile, so the calls are as small as the rate lets them be.
Latency to the acknowledgement is that of each message: from its instant to the return of its call.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from pubsub.cli.bench_histogram import Histogram
from pubsub.cli.bench_messages import WARM, make_payloads
from pubsub.cli.bench_pace import FlatOut, Pace, Schedule, Supply
from pubsub.cli.bench_talk import CALLERS, FLAT_OUT_CALLERS, Published, Task
from pubsub.client.client import Client
from pubsub.config import Limits

FINISH_SECONDS = 3.0
"""How long calls under way may still take once somebody has said stop."""


def portion_messages(size_bytes: int) -> int:
    """How many messages of a size one call is handed at most."""
    limits = Limits()
    return max(1, min(limits.batch_messages, limits.batch_bytes // size_bytes))


class Publisher:
    """One of the publishers.

    Args:
        client: Its own.
        member: Which one, from 0 on.
    """

    def __init__(self, client: Client, task: Task, member: int) -> None:
        self.report = Published(counts={}, latency=Histogram(), ended_ns=0)
        self._client = client
        self._task = task
        self._member = member
        self._portion = portion_messages(task.size_bytes)
        self._supply: Supply | None = None
        self._calling: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def acknowledged(self) -> int:
        """How many messages so far."""
        return sum(self.report.counts.values())

    async def warm_up(self) -> None:
        """Publish one message, which nobody counts: it finds the owner and opens the connection."""
        await self._publish(self._task.first_stream + WARM, self._member, [time.monotonic_ns()])

    async def run(self, began_ns: int) -> None:
        """Publish until the time is over, or `stop`."""
        await asyncio.sleep((began_ns - time.monotonic_ns()) / 1e9)
        self._supply = self._make_supply(began_ns)
        if self._stopped:  # before it began
            self._supply.stop()
        self._calling = asyncio.create_task(self._call_all(self._supply), name="pubsub: bench publisher")
        try:
            await asyncio.wait((self._calling,))
            if not self._calling.cancelled():
                self._calling.result()
        finally:
            self._supply.stop()
            self._calling.cancel()
            if self._patience is not None:
                self._patience.cancel()

    def stop(self) -> None:
        """Begin no more calls, and give those under way a moment."""
        self._stopped = True
        if self._supply is not None and self._calling is not None and self._patience is None:
            self._supply.stop()
            self._patience = asyncio.get_running_loop().call_later(FINISH_SECONDS, self._calling.cancel)

    def _make_supply(self, began_ns: int) -> Supply:
        task = self._task
        end_ns = began_ns + round(task.seconds * 1e9)
        if task.rate is None:
            return FlatOut(end_ns)
        return Pace(Schedule(task.rate, task.seconds, task.publishers, self._member, began_ns), end_ns)

    async def _call_all(self, supply: Supply) -> None:
        first = 1 + self._member * CALLERS
        count = FLAT_OUT_CALLERS if self._task.rate is None else CALLERS
        async with asyncio.TaskGroup() as callers:
            for stream in range(first, first + count):
                callers.create_task(self._call(stream, supply), name=f"pubsub: bench caller {stream}")

    async def _call(self, stream: int, supply: Supply) -> None:
        """One caller: publish what `supply` gives, one call after the other."""
        counts, latency = self.report.counts, self.report.latency
        counts[stream] = 0
        while instants := await supply.due(self._portion):
            await self._publish(self._task.first_stream + stream, counts[stream], instants)
            now_ns = time.monotonic_ns()
            counts[stream] += len(instants)
            for instant, count in Counter(instants).items():
                latency.record(now_ns - instant, count)
            self.report.ended_ns = now_ns

    async def _publish(self, stream: int, first: int, instants: list[int]) -> None:
        payloads = make_payloads(stream, first, instants, self._task.size_bytes)
        await self._client.publish_many(self._task.topic, payloads)
