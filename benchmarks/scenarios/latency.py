"""At an open-loop 1,000 a second: from the intended instant of a publish to its acknowledgement and its delivery."""

from __future__ import annotations

from benchmarks.readings import Figures, Scenario, Subject, latency_figures
from benchmarks.stage import Stage
from benchmarks.systems.names import reference
from benchmarks.systems.ours import System

SIZE_BYTES = 100
PER_SECOND = 1000
WARM = 100
PERCENTS = (50, 99, 99.9)


async def measure(stage: Stage) -> Figures:
    seconds = stage.size(10, 2)
    running = await System().start(stage)
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


scenario = Scenario(
    name="latency",
    title="open loop at 1,000/s, 100 B, from the intended instant",
    subjects=(Subject(name="pubsub", measure=measure),),
)
