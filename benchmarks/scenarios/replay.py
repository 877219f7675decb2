"""A new subscriber reads all that is stored."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Subject
from benchmarks.scenarios.machine_limits import RATE, loopback, sqlite_read
from benchmarks.stage import Stage, cpu_figures
from benchmarks.systems.names import reference
from benchmarks.systems.ours import System

SIZE_BYTES = 100


def messages(stage: Stage) -> int:
    return stage.size(1_000_000, 100_000)


async def measure(stage: Stage) -> Figures:
    """From subscribing to the last delivery."""
    count = messages(stage)
    running = await System().start(stage)
    publisher = await stage.worker(
        "publish-many", running=reference(running), count=count, size_bytes=SIZE_BYTES
    )
    await publisher.run()
    subscriber = await stage.worker(
        "subscribe", running=reference(running), streams=1, each=count, from_start=True
    )
    await subscriber.ready()
    cpu_before = running.store.cpu_seconds()
    subscriber.go()
    got = await subscriber.result()
    return {RATE: count / ((got["ended_ns"] - got["began_ns"]) / 1e9)} | cpu_figures(
        count, peer=running.store.cpu_seconds() - cpu_before, subscriber=got["cpu_seconds"]
    )


_raw = sqlite_read(messages, SIZE_BYTES)

scenario = Scenario(
    name="replay",
    title="replay of 1,000,000 stored messages of 100 B by a new subscriber",
    subjects=(Subject(name="pubsub", measure=measure), _raw, loopback(messages, SIZE_BYTES)),
    ratios=(Ratio(subject="pubsub", metric=RATE, over=(_raw.name, RATE), name="rate / sqlite3 range reads"),),
)
