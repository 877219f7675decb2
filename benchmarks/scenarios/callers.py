"""Many small callers: 1,000 tasks of one client, each awaiting one publish after the other."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Subject, Target
from benchmarks.scenarios.live import one_to
from benchmarks.scenarios.machine_limits import RATE
from benchmarks.stage import Stage, cpu_figures
from benchmarks.systems.all import NATS_DEFAULT, OURS, REDIS_ALWAYS, REDIS_EVERYSEC, portion, subjects
from benchmarks.systems.names import System, reference

SIZE_BYTES = 100
CALLERS = 1000
AT_ONCE = "pubsub, the same by publish_many"
OVER_AT_ONCE = "rate / publish_many"


async def measure(system: System, stage: Stage) -> Figures:
    """From the first publish to the last delivery."""
    each = max(3, portion(stage, system, 150, 30))
    count = CALLERS * each
    running = await system.start(stage)
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
        server=running.store.cpu_seconds() - cpu_before,
        subscriber=got["cpu_seconds"],
    )


async def at_once(stage: Stage) -> Figures:
    count = CALLERS * stage.size(150, 30)
    return await one_to(1, OURS, stage, count=count, size_bytes=SIZE_BYTES)


scenario = Scenario(
    name="callers",
    title="1,000 concurrent publish() callers to one live subscriber, 100 B",
    subjects=(
        *subjects(measure, (REDIS_ALWAYS, REDIS_EVERYSEC, NATS_DEFAULT), quick=False),
        Subject(name=AT_ONCE, measure=at_once),
    ),
    ratios=(Ratio(subject=OURS.name, metric=RATE, over=(AT_ONCE, RATE), name=OVER_AT_ONCE),),
    targets=(
        Target(subject=OURS.name, metric=RATE, at_least=60_000),
        Target(subject=OURS.name, metric=OVER_AT_ONCE, at_least=0.6),
    ),
    plots=(RATE,),
)
