"""What copies cost: publishing, one publish, and 10,000 topics at rest.

All three peers are on this machine, and share its cores and its disk: copies on machines of their own would not.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median

import pubsub
from benchmarks.readings import (
    Figures,
    Ratio,
    Scenario,
    Subject,
    Target,
    latency_figures,
)
from benchmarks.scenarios.live import one_to
from benchmarks.scenarios.machine_limits import RATE
from benchmarks.stage import Stage
from benchmarks.systems.all import subject
from benchmarks.systems.copies import COPIES, System, start_cluster, where
from benchmarks.systems.names import System as AnySystem
from benchmarks.systems.ours import TOPIC

SIZE_BYTES = 100
SINGLE, COPIED = System(1), System(COPIES)
ALONE = "alone"
"""A topic with a single copy, at the peer that owns the one with all of them."""
IN_TURN = "one publish at a time, in turn"
OVER_SINGLE = "rate / a single copy"
TIMES_SINGLE = "p50, 3 copies / a single copy"
WARM = 50


async def _throughput(system: AnySystem, stage: Stage) -> Figures:
    return await one_to(1, system, stage, count=stage.size(200_000, 30_000), size_bytes=SIZE_BYTES)


async def _one_at_a_time(stage: Stage) -> Figures:
    """Bursts of awaited publishes to a topic with a single copy and to one with all copies, of one owner."""
    cluster = await start_cluster(stage)
    async with pubsub.Client(cluster.index) as client:
        await client.create_topic(ALONE, on=cluster.owner.name)
    publisher = await stage.worker(
        "publish-in-turn",
        runnings=[{"system": "pubsub", "where": where(cluster, topic)} for topic in (ALONE, TOPIC)],
        count=stage.size(1500, 300),
        warm=WARM,
        size_bytes=SIZE_BYTES,
    )
    single, copied = (await publisher.run())["seconds"]
    return (
        latency_figures("a single copy: publish", single)
        | latency_figures("3 copies: publish", copied)
        | {TIMES_SINGLE: median(copied) / median(single)}
    )


TOPICS = 10_000
REST_SECONDS, LOOK_SECONDS = 20.0, 20.0
RSS, CPU = "RSS of the largest peer, MB", "CPU of the busiest peer, % of a core"


async def _rest(stage: Stage) -> Figures:
    """Memory and CPU time of peers with many topics of which nothing is asked; then a message to each of them."""
    names = [f"{TOPIC}.{number}" for number in range(stage.size(TOPICS, 100))]
    began = time.monotonic()
    cluster = await start_cluster(stage, topics=names)
    created = time.monotonic() - began
    await asyncio.sleep(stage.size(1, 0) * REST_SECONDS)
    before = {name: peer.cpu_seconds() for name, peer in cluster.peers.items()}
    await asyncio.sleep(LOOK_SECONDS)
    busy = [(peer.cpu_seconds() - before[name]) / LOOK_SECONDS * 100 for name, peer in cluster.peers.items()]
    figures: Figures = {
        RSS: max(peer.rss_mb() for peer in cluster.peers.values()),
        CPU: max(busy),
        "created, and all copies in sync, s": created,
    }
    running = {"system": "pubsub", "where": where(cluster, f"{TOPIC}.*")}
    subscriber = await stage.worker("subscribe", running=running, streams=len(names), each=1)
    publisher = await stage.worker(
        "publish-topics",
        index=cluster.index,
        topics=names,
        streams=len(names),
        each=1,
        rounds=1,
        size_bytes=SIZE_BYTES,
    )
    await subscriber.ready()
    subscriber.go()
    await publisher.run()
    await subscriber.result()
    return figures


AT_REST = "10,000 topics with 3 copies on 3 peers"

cost = Scenario(
    name="replication",
    quick=False,
    long=True,
    title='3 copies on one machine, acks="all", beside a single copy, 100 B',
    subjects=(
        subject(SINGLE, _throughput),
        subject(COPIED, _throughput),
        Subject(name=IN_TURN, measure=_one_at_a_time, promise=COPIED.promise),
    ),
    ratios=(Ratio(subject=COPIED.name, metric=RATE, over=(SINGLE.name, RATE), name=OVER_SINGLE),),
    targets=(
        Target(subject=COPIED.name, metric=OVER_SINGLE, at_least=0.4),
        Target(subject=IN_TURN, metric=TIMES_SINGLE, at_most=3),
    ),
    plots=(RATE,),
)
at_rest = Scenario(
    name="replicas-at-rest",
    quick=False,
    long=True,
    title="10,000 topics with 3 copies on 3 peers, at rest",
    subjects=(Subject(name=AT_REST, measure=_rest),),
    targets=(
        Target(subject=AT_REST, metric=RSS, at_most=300),
        Target(subject=AT_REST, metric=CPU, at_most=5),
    ),
)
