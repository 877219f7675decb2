"""The peer's resident memory: at rest, with much stored, and with a subscriber that has stopped reading."""

from __future__ import annotations

import asyncio
import signal

from benchmarks.readings import Figures, Scenario, Subject, Target
from benchmarks.stage import Stage
from benchmarks.systems.names import Running, reference
from benchmarks.systems.ours import System

SIZE_BYTES = 100
REST_SECONDS = 1.5
"""After publishing: long enough for the checkpoint that follows when nothing is left to write."""
SAMPLE_SECONDS = 0.02
MOST_IDLE_MB = 60.0
MOST_GROWTH_MB = 5.0

IDLE = "RSS idle, MB"
STORED = "RSS growth while storing the rest of 1,000,000, MB"
STOPPED = "RSS growth with a stopped subscriber, peak, MB"


async def measure(stage: Stage) -> Figures:
    first, rest, beside = (
        stage.size(100_000, 20_000),
        stage.size(900_000, 80_000),
        stage.size(300_000, 50_000),
    )
    running = await System().start(stage)
    await asyncio.sleep(REST_SECONDS)
    idle = running.store.rss_mb()
    warm, _ = await _publish(stage, running, 0, first)
    stored, peak = await _publish(stage, running, first, rest)

    # The same once more, with a subscriber that hears nothing of it until it is woken.
    subscriber = await stage.worker(
        "subscribe", running=reference(running), streams=1, each=first + rest + beside, from_start=True
    )
    await subscriber.ready()
    subscriber.go()
    await asyncio.sleep(SAMPLE_SECONDS)
    subscriber.signal(signal.SIGSTOP)
    _, stopped_peak = await _publish(stage, running, first + rest, beside)
    subscriber.signal(signal.SIGCONT)
    await subscriber.result()
    return {
        IDLE: idle,
        "RSS after the first tenth, MB": warm,
        "RSS after all, MB": stored,
        STORED: stored - warm,
        "RSS peak while publishing, MB": peak,
        "RSS peak with a stopped subscriber, MB": stopped_peak,
        STOPPED: stopped_peak - peak,
    }


async def _publish(stage: Stage, running: Running, first: int, count: int) -> tuple[float, float]:
    """Publish; returns the memory at rest afterwards, and the most there was on the way."""
    publisher = await stage.worker(
        "publish-many", running=reference(running), count=count, size_bytes=SIZE_BYTES, first=first
    )
    await publisher.ready()
    publisher.go()
    publishing = asyncio.create_task(publisher.result(), name="benchmark: publish")
    peak = running.store.rss_mb()
    while not publishing.done():
        await asyncio.wait([publishing], timeout=SAMPLE_SECONDS)
        peak = max(peak, running.store.rss_mb())
    publishing.result()
    await asyncio.sleep(REST_SECONDS)
    return running.store.rss_mb(), peak


scenario = Scenario(
    name="memory",
    quick=False,
    long=True,
    title="resident memory of `pubsub peer serve`, messages of 100 B",
    subjects=(Subject(name="pubsub", measure=measure),),
    targets=(
        Target(subject="pubsub", metric=IDLE, at_most=MOST_IDLE_MB),
        Target(subject="pubsub", metric=STORED, at_most=MOST_GROWTH_MB),
        Target(subject="pubsub", metric=STOPPED, at_most=MOST_GROWTH_MB),
    ),
)
