"""One awaited publish at a time, from another process and within the peer's own, beside one bare durable write."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Subject, Target, latency_figures
from benchmarks.scenarios.machine_limits import RATE, sqlite_insert, write_and_sync
from benchmarks.stage import Stage
from benchmarks.systems.all import OTHERS, OURS, RABBITMQ_QUEUE, REDIS_ALWAYS, subject
from benchmarks.systems.names import System, reference

SIZE_BYTES = 100
WARM = 50
REMOTE = "pubsub, remote"
IN_PROCESS = "pubsub, in-process"
RAW = "limit: sqlite3.executemany, 1 row a commit"
OVER_REDIS = f"rate / {REDIS_ALWAYS.name}"
OVER_RAW = "rate / sqlite3, 1 row a commit"
MOST_WRITES = 3.0
"""The most bare writes that one publish may cost."""


def messages(stage: Stage) -> int:
    return stage.size(1500, 300)


async def remote(stage: Stage) -> Figures:
    return await other(OURS, stage)


async def in_process(stage: Stage) -> Figures:
    return await _publish(stage, await OURS.in_process(stage))


async def other(system: System, stage: Stage) -> Figures:
    running = await system.start(stage)
    return await _publish(stage, reference(running), replay=system is not RABBITMQ_QUEUE)


async def _publish(stage: Stage, running: dict[str, object], *, replay: bool = True) -> Figures:
    count = messages(stage)
    publisher = await stage.worker(
        "publish-one-by-one",
        running=running,
        count=count,
        warm=WARM,
        size_bytes=SIZE_BYTES,
        directory=str(stage.directory),
        replay=replay,
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
        Subject(name=REMOTE, measure=remote, promise=OURS.promise),
        Subject(name=IN_PROCESS, measure=in_process, promise=OURS.promise),
        sqlite_insert(messages, SIZE_BYTES, rows_per_commit=1),
        *(subject(system, other, quick=False) for system in OTHERS),
    ),
    ratios=(
        *(_ratio(who, *ratio) for who in (REMOTE, IN_PROCESS) for ratio in _RATIOS.items()),
        Ratio(subject=REMOTE, metric=RATE, over=(REDIS_ALWAYS.name, RATE), name=OVER_REDIS),
        Ratio(subject=IN_PROCESS, metric=RATE, over=(RAW, RATE), name=OVER_RAW),
    ),
    targets=(
        *(
            Target(subject=who, metric=name, at_most=MOST_WRITES)
            for who in (REMOTE, IN_PROCESS)
            for name in _RATIOS
        ),
        Target(subject=REMOTE, metric=OVER_REDIS, at_least=1),
        Target(subject=IN_PROCESS, metric=OVER_RAW, at_least=0.7),
    ),
    plots=(RATE,),
)
