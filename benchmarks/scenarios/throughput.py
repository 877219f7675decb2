"""One publisher to one live subscriber, as fast as it goes, at three sizes of message."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.readings import Figures, Ratio, Scenario, Target
from benchmarks.scenarios.live import one_to
from benchmarks.scenarios.machine_limits import RATE, loopback, sqlite_insert
from benchmarks.stage import Stage
from benchmarks.systems.all import (
    NATS_ALWAYS,
    NATS_BATCHES,
    NATS_DEFAULT,
    OTHERS,
    OURS,
    RABBITMQ_STREAM,
    REDIS_ALWAYS,
    REDIS_EVERYSEC,
    REDIS_TWO_PIPELINES,
    portion,
    subjects,
)
from benchmarks.systems.names import System

SMALL_BYTES = 100
RAW = "limit: sqlite3.executemany, 1,000 rows a commit"
OVER_RAW = "rate / sqlite3.executemany"
BEST_NATS = (NATS_ALWAYS.name, NATS_BATCHES.name, NATS_DEFAULT.name)
_OVER: dict[str | tuple[str, ...], str] = {
    REDIS_ALWAYS.name: f"rate / {REDIS_ALWAYS.name}",
    REDIS_EVERYSEC.name: f"rate / {REDIS_EVERYSEC.name}",
    BEST_NATS: "rate / the best NATS",
    RABBITMQ_STREAM.name: f"rate / {RABBITMQ_STREAM.name}",
}


def _scenario(
    name: str, size_bytes: int, full: int, quick: int, others: Sequence[System], at_least: dict[str, float]
) -> Scenario:
    """`at_least`: ratio -> what it should be. The other ratios are shown all the same."""
    fresh = size_bytes != SMALL_BYTES  # some take many seconds to start: too many for a short run

    async def measure(system: System, stage: Stage) -> Figures:
        count = portion(stage, system, full, quick)
        return await one_to(1, system, stage, count=count, size_bytes=size_bytes, rss=True, fresh=fresh)

    def count(stage: Stage) -> int:
        return stage.size(full, quick)

    over_subject = [
        Ratio(subject=OURS.name, metric=RATE, over=(other, RATE), name=words)
        for other, words in _OVER.items()
    ]
    return Scenario(
        name=name,
        quick=size_bytes == SMALL_BYTES,
        long=size_bytes != SMALL_BYTES,
        title=f"publish_many to one live subscriber, {_words(size_bytes)}, first publish to last delivery",
        subjects=(
            *subjects(measure, others),
            sqlite_insert(count, size_bytes),
            loopback(count, size_bytes),
        ),
        ratios=(Ratio(subject=OURS.name, metric=RATE, over=(RAW, RATE), name=OVER_RAW), *over_subject),
        targets=tuple(Target(subject=OURS.name, metric=of, at_least=least) for of, least in at_least.items()),
        plots=(RATE,),
    )


def _words(size_bytes: int) -> str:
    return f"{size_bytes} B" if size_bytes < 1024 else f"{size_bytes // 1024} KiB"


small = _scenario(
    "throughput",
    SMALL_BYTES,
    300_000,
    50_000,
    (*OTHERS, NATS_BATCHES, *REDIS_TWO_PIPELINES),
    {
        RATE: 150_000,
        _OVER[REDIS_ALWAYS.name]: 2.5,
        _OVER[REDIS_EVERYSEC.name]: 1.7,
        _OVER[BEST_NATS]: 5,
        _OVER[RABBITMQ_STREAM.name]: 1,
    },
)
medium = _scenario(
    "throughput-1k",
    1024,
    100_000,
    20_000,
    (*OTHERS, NATS_BATCHES),
    {_OVER[REDIS_ALWAYS.name]: 2.3, _OVER[REDIS_EVERYSEC.name]: 1, OVER_RAW: 0.65},
)
large = _scenario(
    "throughput-64k", 65_536, 3_000, 500, (REDIS_ALWAYS, REDIS_EVERYSEC, NATS_DEFAULT, RABBITMQ_STREAM), {}
)
scenarios = (small, medium, large)
