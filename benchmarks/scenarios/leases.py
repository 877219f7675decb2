"""Leases with little and with much stored: giving out, acknowledging, running out must cost the same."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Subject, Target
from benchmarks.stage import Stage
from benchmarks.systems.names import reference
from benchmarks.systems.ours import System

SIZE_BYTES = 24
PORTION = 500_000
COUNT = 9000
IN_FLIGHT = 4000
SMALL, LARGE = "10,000 stored", "1,000,000 stored (with --long 10,000,000)"
MOST_TIMES = 1.5

RATE = "acknowledged/s by one member"
ACKNOWLEDGING = "peer CPU to give out and acknowledge, µs/message"
EXPIRING = "peer CPU to expire and give out again, µs/message"
ROUND = "from one delivery to the next, over a lease of 500 ms, ms"


def _subject(name: str, full: int, quick: int, long: int) -> Subject:
    async def measure(stage: Stage) -> Figures:
        stored = stage.size(full, quick, long)
        rounds = stage.size(10, 2)
        running = await System().start(stage)
        for first in range(0, stored, PORTION):
            publisher = await stage.worker(
                "publish-many",
                running=reference(running),
                count=min(PORTION, stored - first),
                size_bytes=SIZE_BYTES,
                first=first,
            )
            await publisher.run()
        member = await stage.worker(
            "leases",
            running=reference(running),
            pid=running.store.process.pid,
            count=COUNT,
            in_flight=IN_FLIGHT,
            rounds=rounds,
        )
        found = await member.run()
        acknowledging, expiring = found["acknowledging"], found["expiring"]
        return {
            ACKNOWLEDGING: acknowledging["cpu_seconds"] / (COUNT * rounds) * 1e6,
            EXPIRING: expiring["cpu_seconds"] / (IN_FLIGHT * rounds) * 1e6,
            RATE: COUNT * rounds / acknowledging["seconds"],
            ROUND: expiring["seconds"] / rounds * 1e3,
        }

    return Subject(name=name, measure=measure)


_METRICS = {"CPU to acknowledge": ACKNOWLEDGING, "CPU to expire": EXPIRING, "delivery to delivery": ROUND}

scenario = Scenario(
    name="leases",
    quick=False,
    long=True,
    title="a group's leases with 10,000 and with 1,000,000 (--long: 10,000,000) messages stored",
    subjects=(_subject(SMALL, 10_000, 10_000, 10_000), _subject(LARGE, 1_000_000, 100_000, 10_000_000)),
    ratios=tuple(
        Ratio(subject=LARGE, metric=metric, over=(SMALL, metric), name=f"{name}, times that with 10,000")
        for name, metric in _METRICS.items()
    ),
    targets=tuple(
        Target(subject=LARGE, metric=f"{name}, times that with 10,000", at_most=MOST_TIMES)
        for name in _METRICS
    ),
)
