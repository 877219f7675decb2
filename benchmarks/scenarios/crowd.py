"""1,000 subscriber connections: at rest, and each receiving 100 messages a second."""

from __future__ import annotations

import asyncio

from benchmarks.readings import Figures, Scenario, Target, latency_figures
from benchmarks.stage import Stage
from benchmarks.systems.all import NATS_DEFAULT, OURS, subjects
from benchmarks.systems.names import System, reference

SIZE_BYTES = 100
PROCESSES = 2
PER_SECOND = 100
WARM = 5
REST_SECONDS = 1.0
"""Between connecting and looking."""

RSS = "1,000 idle subscribers, server RSS growth, MB"
IDLE = "1,000 idle subscribers, server CPU, % of a core"
P99 = "each receiving 100/s, to delivery p99, ms"


async def measure(system: System, stage: Stage) -> Figures:
    connections, seconds = stage.size(1000, 100), stage.size(2, 1)
    running = await system.start(stage, fresh=True)
    await asyncio.sleep(REST_SECONDS)
    rss = running.store.rss_mb()
    crowd = [
        await stage.worker(
            "subscribe-crowd",
            running=reference(running),
            connections=connections // PROCESSES,
            count=PER_SECOND * seconds,
            warm=WARM,
        )
        for _ in range(PROCESSES)
    ]
    for worker in crowd:
        await worker.ready()
    await asyncio.sleep(REST_SECONDS)
    figures = {RSS: running.store.rss_mb() - rss}
    cpu = running.store.cpu_seconds()
    await asyncio.sleep(seconds)
    figures |= {IDLE: 100 * (running.store.cpu_seconds() - cpu) / seconds}

    publisher = await stage.worker(
        "publish-open-loop",
        running=reference(running),
        per_second=PER_SECOND,
        seconds=seconds,
        warm=WARM,
        size_bytes=SIZE_BYTES,
    )
    await publisher.ready()
    for worker in crowd:
        worker.go()
    cpu = running.store.cpu_seconds()
    publisher.go()
    await publisher.result()
    got = [await worker.result() for worker in crowd]
    server = running.store.cpu_seconds() - cpu
    took = [each for found in got for each in found["took"]]
    return (
        figures
        | latency_figures("each receiving 100/s, to delivery", took)
        | {
            "each receiving, server RSS growth, MB": running.store.rss_mb() - rss,
            "each receiving, server CPU, % of a core": 100 * server / seconds,
            "each receiving, server CPU, µs/delivery": server / len(took) * 1e6,
            "each receiving, subscribers' CPU, % of a core": 100
            * sum(found["cpu_seconds"] for found in got)
            / seconds,
        }
    )


scenario = Scenario(
    name="crowd",
    quick=False,
    title="1,000 subscriber connections in 2 processes, at rest and each receiving 100/s, 100 B",
    subjects=subjects(measure, (NATS_DEFAULT,), quick=False),
    targets=(
        Target(subject=OURS.name, metric=RSS, at_most=60),
        Target(subject=OURS.name, metric=IDLE, at_most=3),
        Target(subject=OURS.name, metric=P99, at_most=250),
    ),
)
