"""A new subscriber reads all that is stored: alone, and while somebody publishes to the same topic at full speed."""

from __future__ import annotations

import asyncio
import signal

from benchmarks.readings import Figures, Ratio, RunFailedError, Scenario, Subject, Target, rate
from benchmarks.scenarios.machine_limits import RATE, loopback, sqlite_read
from benchmarks.stage import Stage, Worker, cpu_figures
from benchmarks.systems.all import (
    NATS_DEFAULT,
    OURS,
    RABBITMQ_STREAM,
    REDIS_EVERYSEC,
    subjects,
)
from benchmarks.systems.names import Running, System, reference

SIZE_BYTES = 100
BESIDE = "pubsub, publishing beside it"
PUBLISHED = "published/s"
KEEPS_REPLAY, KEEPS_PUBLISHING = "replay rate / alone", "publishing rate / alone"
PORTIONS = 20
"""Different ones: more would take a while to make, and nobody looks into them."""
MOST_SECONDS = 60
AHEAD_SECONDS = 0.2
"""Publishing is under way for so long when the replay begins."""


def messages(stage: Stage) -> int:
    return stage.size(1_000_000, 100_000)


async def measure(system: System, stage: Stage) -> Figures:
    """From subscribing to the last delivery."""
    count = int(messages(stage) * system.share)
    running = await system.start(stage)
    await _fill(stage, running, count)
    subscriber = await _subscriber(stage, running, count)
    cpu_before = running.store.cpu_seconds()
    got = await subscriber.run()
    return {RATE: count / ((got["ended_ns"] - got["began_ns"]) / 1e9)} | cpu_figures(
        count, server=running.store.cpu_seconds() - cpu_before, subscriber=got["cpu_seconds"]
    )


async def beside(stage: Stage) -> Figures:
    """Publishing alone for a while, then a replay of what was there before, with more publishing beside it."""
    count = messages(stage)
    running = await OURS.start(stage)
    seconds = stage.size(2, 1)
    alone = await _publisher(stage, running, 1, seconds)
    publisher = await _publisher(stage, running, 2, MOST_SECONDS)
    await _fill(stage, running, count)  # while the others get ready
    alone_found = await alone.run()
    await publisher.ready()
    subscriber = await _subscriber(stage, running, count)
    await subscriber.ready()
    publisher.go()
    await asyncio.sleep(AHEAD_SECONDS)
    subscriber.go()
    got = await subscriber.result()
    publisher.signal(signal.SIGUSR1)
    sent = await publisher.result()
    # Only what was published while the replay ran counts for the rate beside it.
    during = [portion for portion in sent["portions"] if got["began_ns"] <= portion[0] <= got["ended_ns"]]
    if len(during) < 2 or sent["ended_ns"] < got["ended_ns"]:
        raise RunFailedError("publishing was not under way while the replay was")
    return {
        RATE: count / ((got["ended_ns"] - got["began_ns"]) / 1e9),
        PUBLISHED: rate(during),
        f"{PUBLISHED} alone": rate(alone_found["portions"]),
        KEEPS_PUBLISHING: rate(during) / rate(alone_found["portions"]),
    }


async def _fill(stage: Stage, running: Running, count: int) -> None:
    publisher = await stage.worker(
        "publish-many", running=reference(running), count=count, size_bytes=SIZE_BYTES
    )
    await publisher.run()


async def _subscriber(stage: Stage, running: Running, count: int) -> Worker:
    return await stage.worker(
        "subscribe", running=reference(running), streams=1, each=count, from_start=True, others=True
    )


async def _publisher(stage: Stage, running: Running, stream: int, seconds: int) -> Worker:
    return await stage.worker(
        "publish-for",
        running=reference(running),
        stream=stream,
        seconds=seconds,
        size_bytes=SIZE_BYTES,
        portions=PORTIONS,
        again=True,
    )


_raw = sqlite_read(lambda stage: stage.size(300_000, 100_000), SIZE_BYTES)

scenario = Scenario(
    name="replay",
    title="replay of 1,000,000 stored messages of 100 B by a new subscriber",
    subjects=(
        *subjects(measure, (REDIS_EVERYSEC, NATS_DEFAULT, RABBITMQ_STREAM), quick=False),
        Subject(name=BESIDE, measure=beside),
        _raw,
        loopback(messages, SIZE_BYTES),
    ),
    ratios=(
        Ratio(subject=OURS.name, metric=RATE, over=(_raw.name, RATE), name="rate / sqlite3 range reads"),
        Ratio(subject=BESIDE, metric=RATE, over=(OURS.name, RATE), name=KEEPS_REPLAY),
    ),
    targets=(
        Target(subject=OURS.name, metric=RATE, at_least=700_000),
        Target(subject=BESIDE, metric=KEEPS_REPLAY, at_least=0.7),
        Target(subject=BESIDE, metric=KEEPS_PUBLISHING, at_least=0.7),
    ),
    plots=(RATE,),
)
