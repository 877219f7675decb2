"""One publisher to eight live subscribers, each of which gets everything."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Target
from benchmarks.scenarios.live import DELIVERIES, PER_DELIVERY, one_to
from benchmarks.stage import Stage
from benchmarks.systems.all import OURS, REDIS_ALWAYS, portion, subjects
from benchmarks.systems.names import System

SIZE_BYTES = 100
SUBSCRIBERS = 8
OVER_REDIS = f"deliveries / {REDIS_ALWAYS.name}"


async def measure(system: System, stage: Stage) -> Figures:
    count = portion(stage, system, 100_000, 20_000)
    return await one_to(SUBSCRIBERS, system, stage, count=count, size_bytes=SIZE_BYTES)


scenario = Scenario(
    name="fan-out",
    title=f"publish_many to {SUBSCRIBERS} live subscribers, {SIZE_BYTES} B, first publish to last delivery to the last",
    subjects=subjects(measure, quick=False),
    ratios=(
        Ratio(subject=OURS.name, metric=DELIVERIES, over=(REDIS_ALWAYS.name, DELIVERIES), name=OVER_REDIS),
    ),
    targets=(
        Target(subject=OURS.name, metric=OVER_REDIS, at_least=1.5),
        Target(subject=OURS.name, metric=PER_DELIVERY, at_most=0.5),
    ),
    plots=(DELIVERIES,),
)
