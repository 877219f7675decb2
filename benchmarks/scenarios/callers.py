"""Many small callers: 1,000 tasks of one client, each awaiting one publish after the other."""

from __future__ import annotations

from benchmarks.readings import Figures, Scenario, Subject, Target
from benchmarks.scenarios.machine_limits import RATE
from benchmarks.stage import Stage, cpu_figures
from benchmarks.systems.names import reference
from benchmarks.systems.ours import System

SIZE_BYTES = 100
CALLERS = 1000


async def measure(stage: Stage) -> Figures:
    """From the first publish to the last delivery."""
    each = stage.size(300, 30)
    count = CALLERS * each
    running = await System().start(stage)
    subscriber = await stage.worker("subscribe", running=reference(running), streams=CALLERS, each=each)
    publisher = await stage.worker(
        "publish-callers", running=reference(running), callers=CALLERS, each=each, size_bytes=SIZE_BYTES
    )
    await subscriber.ready()
    await publisher.ready()
    cpu_before = running.store.cpu_seconds()
    subscriber.go()
    publisher.go()
    sent = await publisher.result()
    got = await subscriber.result()
    return {RATE: count / ((got["ended_ns"] - sent["began_ns"]) / 1e9)} | cpu_figures(
        count,
        publisher=sent["cpu_seconds"],
        peer=running.store.cpu_seconds() - cpu_before,
        subscriber=got["cpu_seconds"],
    )


scenario = Scenario(
    name="callers",
    title="1,000 concurrent publish() callers to one live subscriber, 100 B",
    subjects=(Subject(name="pubsub", measure=measure),),
    targets=(Target(subject="pubsub", metric=RATE, at_least=60_000),),
)
