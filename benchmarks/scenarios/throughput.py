"""One publisher to one live subscriber, as fast as it goes."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Subject, Target
from benchmarks.scenarios.machine_limits import RATE, loopback, sqlite_insert
from benchmarks.stage import Stage, cpu_figures
from benchmarks.systems.names import reference
from benchmarks.systems.ours import System

SIZE_BYTES = 100


def messages(stage: Stage) -> int:
    return stage.size(300_000, 50_000)


async def measure(stage: Stage) -> Figures:
    """From the first publish to the last delivery."""
    count = messages(stage)
    running = await System().start(stage)
    subscriber = await stage.worker("subscribe", running=reference(running), streams=1, each=count)
    publisher = await stage.worker(
        "publish-many", running=reference(running), count=count, size_bytes=SIZE_BYTES
    )
    await subscriber.ready()
    await publisher.ready()
    cpu_before = running.store.cpu_seconds()
    subscriber.go()
    publisher.go()
    sent = await publisher.result()
    got = await subscriber.result()
    return {
        RATE: count / ((got["ended_ns"] - sent["began_ns"]) / 1e9),
        "acknowledged/s": count / ((sent["ended_ns"] - sent["began_ns"]) / 1e9),
    } | cpu_figures(
        count,
        publisher=sent["cpu_seconds"],
        peer=running.store.cpu_seconds() - cpu_before,
        subscriber=got["cpu_seconds"],
    )


_raw = sqlite_insert(messages, SIZE_BYTES)

scenario = Scenario(
    name="throughput",
    title="publish_many to one live subscriber, 100 B, first publish to last delivery",
    subjects=(Subject(name="pubsub", measure=measure), _raw, loopback(messages, SIZE_BYTES)),
    ratios=(Ratio(subject="pubsub", metric=RATE, over=(_raw.name, RATE), name="rate / sqlite3.executemany"),),
    targets=(Target(subject="pubsub", metric=RATE, at_least=150_000),),
)
