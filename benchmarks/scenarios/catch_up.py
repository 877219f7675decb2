"""A copy that was away comes back: how fast it gets on, and what publishing loses meanwhile.

All three peers are on this machine, and share its cores and its disk: copies on machines of their own would not.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from functools import partial
from typing import Any

from benchmarks.readings import Figures, RunFailedError, Scenario, Subject, Target, rate
from benchmarks.stage import Stage
from benchmarks.systems.copies import COPIES, Cluster, compare_copies, in_sync, start_cluster, where
from benchmarks.systems.ours import TOPIC, start_peer

SIZE_BYTES = 100
BACK = "back in sync after, s"
BACK_AFTERWARDS = "in sync after publishing has ended, s"
CAUGHT_UP = "catches up, messages/s"
KEPT = "publishing rate while it catches up / before"
BEHIND = 500_000
AWAY_SECONDS = 2.0
PORTIONS_PER_SECOND = 45
"""More than a publisher gets rid of: it must not run out."""
ALONE, BESIDE = "a follower returns", "a follower returns, publishing beside it"


async def _return(publishing: bool, stage: Stage) -> Figures:
    """A follower ends, misses messages, and is started again: from its registration until it is in sync."""
    missed = stage.size(BEHIND, 50_000)
    cluster = await start_cluster(stage, policy={"replica_lag_seconds": AWAY_SECONDS})
    running = {"system": "pubsub", "where": where(cluster)}
    await cluster.peers[cluster.last].end()
    await in_sync(cluster.index, 1, COPIES - 1)
    filling = await stage.worker("publish-many", running=running, count=missed, size_bytes=SIZE_BYTES)
    await filling.run()
    counts = [missed]
    if publishing:
        figures, published = await _return_beside(stage, cluster, running)
        counts.append(published)
    else:
        await start_peer(stage, cluster.index, cluster.last)
        began = time.monotonic()
        await in_sync(cluster.index, 1)
        seconds = time.monotonic() - began
        figures = {BACK: seconds, CAUGHT_UP: missed / seconds}
    await compare_copies(cluster.index)
    reader = await stage.worker("subscribe", running=running, counts=counts, from_start=True)
    await reader.run()
    return figures


async def _return_beside(stage: Stage, cluster: Cluster, running: dict[str, Any]) -> tuple[Figures, int]:
    """The same while somebody publishes as fast as it goes; also returns how many were published.

    The follower may then never get to the end: what counts is how fast it gets on.
    """
    seconds = stage.size(12, 6)
    publisher = await stage.worker(
        "publish-for",
        running=running,
        stream=1,
        seconds=seconds,
        size_bytes=SIZE_BYTES,
        portions=int(PORTIONS_PER_SECOND * seconds),
    )
    await publisher.ready()
    publisher.go()
    await asyncio.sleep(seconds / 3)
    started_ns = time.monotonic_ns()
    await start_peer(stage, cluster.index, cluster.last)
    first_ns, first = time.monotonic_ns(), _stored(stage, cluster.last)
    await asyncio.sleep(seconds / 3)
    last_ns, last = time.monotonic_ns(), _stored(stage, cluster.last)
    portions: list[list[int]] = (await publisher.result())["portions"]
    ended = time.monotonic()
    await in_sync(cluster.index, 1)
    before = [each for each in portions if each[0] < started_ns]
    during = [each for each in portions if first_ns <= each[0] <= last_ns]
    if min(len(before), len(during)) < 2 or portions[-1][0] < last_ns:
        raise RunFailedError("too little was published before the follower returned, or while it caught up")
    figures: Figures = {
        BACK_AFTERWARDS: time.monotonic() - ended,
        "published/s before": rate(before),
        "published/s while it catches up": rate(during),
        CAUGHT_UP: (last - first) / ((last_ns - first_ns) / 1e9),
        KEPT: rate(during) / rate(before),
    }
    return figures, sum(count for _, count in portions)


def _stored(stage: Stage, peer: str) -> int:
    """How far a peer's copy goes, as its file has it."""
    with closing(sqlite3.connect(f"file:{stage.directory / peer / 'peer.db'}?mode=ro", uri=True)) as file:
        found = file.execute("SELECT next_offset FROM topics WHERE name = ?", (TOPIC,)).fetchone()
        return int(found[0])


scenario = Scenario(
    name="catch-up",
    quick=False,
    long=True,
    title="a follower that missed 500,000 messages of 100 B returns",
    subjects=(
        Subject(name=ALONE, measure=partial(_return, False)),
        Subject(name=BESIDE, measure=partial(_return, True)),
    ),
    targets=(
        Target(subject=ALONE, metric=CAUGHT_UP, at_least=100_000),
        Target(subject=BESIDE, metric=CAUGHT_UP, at_least=100_000),
        Target(subject=BESIDE, metric=KEPT, at_least=0.7),
    ),
)
