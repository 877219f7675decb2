"""Beginning a replay at a time, somewhere in much that is stored: from subscribing to the first message."""

from __future__ import annotations

import asyncio
import random
import time
from statistics import median
from typing import Any

import pubsub
from benchmarks.readings import Figures, RunFailedError, Scenario, Subject, Target
from benchmarks.stage import Stage
from benchmarks.systems.names import reference
from benchmarks.systems.ours import System

SIZE_BYTES = 100
PORTION = 500_000
STARTS = 50
MEDIAN, SLOWEST = "to the first message, median, ms", "to the first message, slowest, ms"
MOST_MS = 50


async def measure(stage: Stage) -> Figures:
    count = stage.size(1_000_000, 100_000, 10_000_000)
    running = await System().start(stage)
    for first in range(0, count, PORTION):
        publisher = await stage.worker(
            "publish-many",
            running=reference(running),
            count=min(PORTION, count - first),
            size_bytes=SIZE_BYTES,
            first=first,
        )
        await publisher.run()
    where: dict[str, Any] = running.where
    took: list[float] = []
    async with pubsub.Client(where["index"]) as client:
        (oldest,) = await client.query(where["topic"], limit=1)
        (newest,) = await client.query(where["topic"], start=count - 1, limit=1)
        chance = random.Random(1)
        for _ in range(STARTS):
            # not the time of a message that was looked at: its pages would be warm
            at = oldest.published_at + (newest.published_at - oldest.published_at) * chance.random()
            began = time.perf_counter()
            async with client.subscribe(where["topic"], start=at) as messages:
                message = await anext(messages)
                took.append((time.perf_counter() - began) * 1e3)
            if message.published_at < at:
                raise RunFailedError(f"a replay from {at} began at a message of {message.published_at}")
            await asyncio.sleep(0.01)  # what was sent too much has been thrown away
    return {MEDIAN: median(took), SLOWEST: max(took)}


scenario = Scenario(
    name="replay-by-time",
    quick=False,
    long=True,
    title="start of a replay at a time in 1,000,000 (--long: 10,000,000) stored messages of 100 B",
    subjects=(Subject(name="pubsub", measure=measure),),
    targets=(Target(subject="pubsub", metric=SLOWEST, at_most=MOST_MS),),
)
