"""At an open-loop 1,000 a second: from the intended instant of a publish to its acknowledgement and its delivery."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Target, latency_figures
from benchmarks.stage import Stage
from benchmarks.systems.all import OURS, REDIS_ALWAYS, subjects
from benchmarks.systems.names import System, reference

SIZE_BYTES = 100
PER_SECOND = 1000
WARM = 100
PERCENTS = (50, 99, 99.9)
P50, P99 = "to delivery p50, ms", "to delivery p99, ms"


async def measure(system: System, stage: Stage) -> Figures:
    seconds = stage.size(3, 2)
    running = await system.start(stage)
    subscriber = await stage.worker(
        "subscribe", running=reference(running), streams=1, each=PER_SECOND * seconds, warm=WARM, timed=True
    )
    await subscriber.ready()
    subscriber.go()
    publisher = await stage.worker(
        "publish-open-loop",
        running=reference(running),
        per_second=PER_SECOND,
        seconds=seconds,
        warm=WARM,
        size_bytes=SIZE_BYTES,
    )
    sent = await publisher.run()
    got = await subscriber.result()
    return latency_figures("to delivery", got["seconds"], PERCENTS) | latency_figures(
        "to acknowledgement", sent["seconds"], PERCENTS
    )


_RATIOS = {metric: f"{metric.removesuffix(', ms')} / {REDIS_ALWAYS.name}" for metric in (P50, P99)}

scenario = Scenario(
    name="latency",
    title="open loop at 1,000/s, 100 B, from the intended instant",
    subjects=subjects(measure, quick=False),
    ratios=tuple(
        Ratio(subject=OURS.name, metric=metric, over=(REDIS_ALWAYS.name, metric), name=name)
        for metric, name in _RATIOS.items()
    ),
    targets=tuple(Target(subject=OURS.name, metric=name, at_most=1) for name in _RATIOS.values()),
    plots=(P50, P99),
)
