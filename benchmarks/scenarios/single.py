"""One awaited publish at a time, from another process and within the peer's own, beside one bare durable write."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Subject, Target, latency_figures
from benchmarks.scenarios.machine_limits import RATE, WRITE, sqlite_insert, write_and_sync
from benchmarks.stage import Stage
from benchmarks.systems.names import reference
from benchmarks.systems.ours import System

SIZE_BYTES = 100
WARM = 50
REMOTE = "pubsub, remote"
IN_PROCESS = "pubsub, in-process"
MOST_WRITES = 3.0
"""The most bare writes that one publish may cost."""


def messages(stage: Stage) -> int:
    return stage.size(3000, 300)


async def remote(stage: Stage) -> Figures:
    running = await System().start(stage)
    return await _publish(stage, reference(running))


async def in_process(stage: Stage) -> Figures:
    return await _publish(stage, await System().in_process(stage))


async def _publish(stage: Stage, running: dict[str, object]) -> Figures:
    count = messages(stage)
    publisher = await stage.worker(
        "publish-one-by-one", running=running, count=count, warm=WARM, size_bytes=SIZE_BYTES
    )
    found = await publisher.run()
    return latency_figures("publish", found["seconds"]) | {RATE: count / sum(found["seconds"])}


def _ratio(subject: str) -> Ratio:
    return Ratio(
        subject=subject,
        metric="publish p50, ms",
        over=(WRITE, "in place p50, ms"),
        name="p50 / write in place",
    )


def _ratio_growing(subject: str) -> Ratio:
    return Ratio(
        subject=subject,
        metric="publish p50, ms",
        over=(WRITE, "growing file p50, ms"),
        name="p50 / write, growing file",
    )


scenario = Scenario(
    name="single",
    title="one awaited publish at a time, 100 B",
    subjects=(
        write_and_sync(),
        Subject(name=REMOTE, measure=remote),
        Subject(name=IN_PROCESS, measure=in_process),
        sqlite_insert(messages, SIZE_BYTES, rows_per_commit=1),
    ),
    ratios=(_ratio(REMOTE), _ratio_growing(REMOTE), _ratio(IN_PROCESS), _ratio_growing(IN_PROCESS)),
    targets=(
        Target(subject=REMOTE, metric="p50 / write in place", at_most=MOST_WRITES),
        Target(subject=IN_PROCESS, metric="p50 / write in place", at_most=MOST_WRITES),
    ),
)
