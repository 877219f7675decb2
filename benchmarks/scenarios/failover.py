"""The owner of a topic goes: killed with the default ttl and with one of 2 s, told to end, and with 1,000 topics.

What counts is the silence that a publisher sees between two acknowledgements. The publishes are verified by a
subscriber that was there all the time, and by one that reads everything of the new owner.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.readings import Figures, Scenario, Subject, Target
from benchmarks.stage import Stage, Worker
from benchmarks.systems.copies import Cluster, start_cluster
from benchmarks.systems.ours import TOPIC

SILENCE = "longest silence between acknowledgements, s"
LAST_SILENCE = "until the last topic publishes again, s"
MEDIAN_SILENCE = "until half of the topics publish again, s"
DEFAULT_TTL, SHORT_TTL = 6.0, 2.0
AFTER_SECONDS = 6.0
"""How long publishing goes on after the time in which it should have resumed, so that a miss is measured too."""
MANY_AFTER_SECONDS = 25.0
BETWEEN_SECONDS = 1.0
"""With many topics, between the publishes to one."""


def _subject(name: str, number: signal.Signals, ttl_seconds: float, most_seconds: float) -> Subject:
    async def measure(stage: Stage) -> Figures:
        cluster = await start_cluster(stage, "--ttl", f"{ttl_seconds:g}")
        seconds = ttl_seconds + 1.0 + most_seconds + AFTER_SECONDS
        worker = await _publisher(stage, cluster, (TOPIC,), TOPIC, seconds, 0.0)
        await _strike(cluster, worker, number, ttl_seconds)
        found = await worker.result()
        ((began, ended),) = found["silences"]
        return {SILENCE: (ended - began) / 1e9, "acknowledged in the run": float(found["acknowledged"])}

    return Subject(name=name, measure=measure)


async def _publisher(
    stage: Stage, cluster: Cluster, topics: Sequence[str], pattern: str, seconds: float, pause: float
) -> Worker:
    task: dict[str, Any] = {"topics": list(topics), "pattern": pattern, "pause_seconds": pause}
    return await stage.worker("publish-through", index=cluster.index, seconds=seconds, **task)


async def _strike(cluster: Cluster, worker: Worker, number: signal.Signals, ttl_seconds: float) -> int:
    """Let it publish, until a registry that was empty would decide about owners too; then the owner goes.

    Returns:
        When, in ns of the monotonic clock.
    """
    await worker.ready()
    worker.go()
    await asyncio.sleep(ttl_seconds + 1.0)
    cluster.owner.signal(number)
    return time.monotonic_ns()


async def _many(stage: Stage) -> Figures:
    names = [f"{TOPIC}.{number}" for number in range(stage.size(1000, 100))]
    cluster = await start_cluster(stage, topics=names)
    seconds = 2 * DEFAULT_TTL + 1.0 + MANY_AFTER_SECONDS
    worker = await _publisher(stage, cluster, names, f"{TOPIC}.*", seconds, BETWEEN_SECONDS)
    struck_ns = await _strike(cluster, worker, signal.SIGKILL, DEFAULT_TTL)
    found = await worker.result()
    resumed = sorted((ended - struck_ns) / 1e9 for _, ended in found["silences"])
    return {
        MEDIAN_SILENCE: resumed[len(resumed) // 2],
        LAST_SILENCE: resumed[-1],
        "acknowledged in the run": float(found["acknowledged"]),
    }


KILLED, KILLED_SHORT = "kill -9 of the owner, default ttl (6 s)", "kill -9 of the owner, --ttl 2"
STOPPED = "SIGTERM to the owner"
MANY = "kill -9 of the owner of 1,000 topics, default ttl"

one = Scenario(
    name="failover",
    quick=False,
    long=True,
    title='the owner of a topic with 3 copies goes; one caller publishes, acks="all", 100 B',
    subjects=(
        _subject(KILLED, signal.SIGKILL, DEFAULT_TTL, 8.0),
        _subject(KILLED_SHORT, signal.SIGKILL, SHORT_TTL, 4.0),
        _subject(STOPPED, signal.SIGTERM, DEFAULT_TTL, 1.0),
    ),
    targets=(
        Target(subject=KILLED, metric=SILENCE, at_most=8),
        Target(subject=KILLED_SHORT, metric=SILENCE, at_most=4),
        Target(subject=STOPPED, metric=SILENCE, at_most=1),
    ),
)
many = Scenario(
    name="failover-topics",
    quick=False,
    long=True,
    title="1,000 topics with 3 copies of one owner that is killed; each is published to once a second",
    subjects=(Subject(name=MANY, measure=_many),),
    targets=(Target(subject=MANY, metric=LAST_SILENCE, at_most=DEFAULT_TTL + 2 + 5),),
)
scenarios = (one, many)
