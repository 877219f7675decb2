"""One index on a Redis with 10,000 peers and 100,000 topics: heartbeats, lookups, and 1,000 peers that come at once.

All peers are alive all the time. For what is asked without heartbeats beside it the index has a ttl that outlasts the
measurement; lookups beside the heartbeats of all peers, and newcomers, are measured at an index with the default ttl,
at which each peer beats every 2 s.

Rates are for one core of an index: what was answered, divided by the index's CPU time. As many indexes as cores share
one Redis; its own CPU time stands beside.
"""

from __future__ import annotations

from typing import Any

from benchmarks.readings import Figures, Scenario, Subject, Target, latency_figures
from benchmarks.stage import Child, Stage, free_port
from benchmarks.systems.all import REDIS_ALWAYS
from benchmarks.systems.ours import start_index
from benchmarks.systems.redis_streams import start_server

BEATS, LOOKUPS = "heartbeats/s per core of the index", "lookups/s per core of the index"
LOOKUP_P99 = "lookup at 1,000/s p99, ms"
BESIDE = "lookup at 1,000/s beside all peers' heartbeats"
CONNECTIONS = 200
UNDER_WAY = 5
"""Requests at once on each connection: 1,000 at the index."""
PER_SECOND = 1000
BEAT_SECONDS = 2
"""So often does each peer beat, with the default ttl."""
LASTING_TTL = ("--ttl", "120")
"""No peer dies while nobody beats."""


async def measure(stage: Stage) -> Figures:
    peers, topics = stage.size(10_000, 500), stage.size(100_000, 5_000)
    port = free_port()
    redis = await start_server(stage, port, appendonly="no", dir=str(stage.directory))
    url = f"redis://127.0.0.1:{port}"
    await _fill(stage, url, peers, topics)
    index, address = await start_index(stage, "--redis", url, *LASTING_TTL)
    both = (index, redis)

    count = stage.size(50_000, 3_000)
    beating: dict[str, Any] = {"peers": peers, "connections": CONNECTIONS}
    looking: dict[str, Any] = {"topics": topics, "connections": CONNECTIONS}
    beats = await _asked(stage, "beat", address, both, count, beating)
    lookups = await _asked(stage, "look-up", address, both, count, looking)
    alone = await _look_up(stage, address, looking, None)
    rss = index.rss_mb()
    await index.end()
    await _fill(stage, url, peers, 0)  # they live for a minute, whatever the next index holds of them
    index, address = await start_index(stage, "--redis", url)
    beside = await _look_up(stage, address, looking, {"per_second": peers // BEAT_SECONDS, **beating})
    newcomers = await stage.worker("come", index=address, peers=stage.size(1000, 50), topics_each=10)
    came = await newcomers.run()
    return (
        {
            BEATS: beats[0],
            "heartbeats/s, one index": beats[1],
            "Redis CPU, µs/heartbeat": beats[2],
            LOOKUPS: lookups[0],
            "lookups/s, one index": lookups[1],
            "Redis CPU, µs/lookup": lookups[2],
        }
        | latency_figures("lookup at 1,000/s", alone)
        | latency_figures(BESIDE, beside)
        | {
            "1,000 peers come, with 10 topics each, s": came["seconds"],
            "index RSS, MB": max(rss, index.rss_mb()),
        }
    )


async def _fill(stage: Stage, url: str, peers: int, topics: int) -> None:
    filler = await stage.worker("fill-registry", url=url, peers=peers, topics=topics)
    await filler.run()


async def _look_up(
    stage: Stage, address: str, looking: dict[str, Any], beating: dict[str, Any] | None
) -> list[float]:
    """Open loop, alone or beside heartbeats; returns how long each lookup took."""
    seconds = stage.size(6, 2)
    lookups = await stage.worker(
        "look-up-open-loop", index=address, per_second=PER_SECOND, seconds=seconds, **looking
    )
    await lookups.ready()
    beats = None
    if beating is not None:
        beats = await stage.worker("beat-open-loop", index=address, seconds=seconds, **beating)
        await beats.ready()
        beats.go()
    lookups.go()
    took: list[float] = (await lookups.result())["seconds"]
    if beats is not None:
        await beats.result()
    return took


async def _asked(
    stage: Stage, part: str, address: str, both: tuple[Child, Child], count: int, task: dict[str, Any]
) -> tuple[float, float, float]:
    """Requests per second of the index's CPU time, and of time; Redis's CPU time, µs/request."""
    worker = await stage.worker(part, index=address, count=count, under_way=UNDER_WAY, **task)
    await worker.ready()
    before = [child.cpu_seconds() for child in both]
    worker.go()
    found = await worker.result()
    index_cpu, redis_cpu = (child.cpu_seconds() - cpu for child, cpu in zip(both, before, strict=True))
    return count / index_cpu, count / found["seconds"], redis_cpu / count * 1e6


SUBJECT = "pubsub index on Redis"

scenario = Scenario(
    name="index",
    quick=False,
    long=True,
    title="one index on a real Redis, 10,000 peers and 100,000 topics registered",
    subjects=(Subject(name=SUBJECT, measure=measure, missing=REDIS_ALWAYS.missing),),
    targets=(
        Target(subject=SUBJECT, metric=BEATS, at_least=5_000),
        Target(subject=SUBJECT, metric=LOOKUPS, at_least=10_000),
        Target(subject=SUBJECT, metric=LOOKUP_P99, at_most=3),
    ),
)
