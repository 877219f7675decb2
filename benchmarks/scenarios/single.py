"""One awaited publish at a time, from another process and within the peer's own, beside one bare durable write."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Subject, Target, latency_figures
from benchmarks.scenarios.machine_limits import RATE, sqlite_insert, write_and_sync
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
        "publish-one-by-one",
        running=running,
        count=count,
        warm=WARM,
        size_bytes=SIZE_BYTES,
        directory=str(stage.directory),
    )
    found = await publisher.run()
    return (
        latency_figures("publish", found["seconds"])
        | {RATE: count / sum(found["seconds"])}
        | latency_figures("bare write in place, in turn,", found["within"], (50,))
        | latency_figures("bare write to a growing file, in turn,", found["growing"], (50,))
    )


def _ratio(subject: str, name: str, kind: str) -> Ratio:
    return Ratio(
        subject=subject,
        metric="publish p50, ms",
        over=(subject, f"bare write {kind}, in turn, p50, ms"),
        name=name,
    )


_RATIOS = {"p50 / bare write in place": "in place", "p50 / bare write, growing": "to a growing file"}

scenario = Scenario(
    name="single",
    title="one awaited publish at a time, 100 B",
    subjects=(
        write_and_sync(),
        Subject(name=REMOTE, measure=remote),
        Subject(name=IN_PROCESS, measure=in_process),
        sqlite_insert(messages, SIZE_BYTES, rows_per_commit=1),
    ),
    ratios=tuple(_ratio(who, *ratio) for who in (REMOTE, IN_PROCESS) for ratio in _RATIOS.items()),
    targets=tuple(
        Target(subject=who, metric=name, at_most=MOST_WRITES)
        for who in (REMOTE, IN_PROCESS)
        for name in _RATIOS
    ),
)
