"""Publishing with nothing, with 1,000,000 and (`--long`) with 10,000,000 messages stored: it must cost the same.

A peer for each amount, all of one index. They are measured in turn, in short bursts, so that all see the machine and a
shared disk in the same mood. The rate with nothing stored is that of a new peer for each burst. The latency is that of
a peer as old as the others, which holds next to nothing: a new one is slower at first, whatever it holds.
"""

from __future__ import annotations

import asyncio
from statistics import median

import pubsub
from benchmarks.readings import Figures, Scenario, Subject, Target, percentile
from benchmarks.stage import Child, Stage
from benchmarks.systems.ours import start_index, start_peer

SIZE_BYTES = 100
PORTION = 500_000
BURST_MESSAGES = 200_000
BURST_SECONDS = 2
PER_SECOND = 1000
WARM = 100
REST_SECONDS = 1.5
"""After publishing: long enough for the checkpoint that follows."""
NOTHING = "nothing"
LITTLE = "little"

RATE_CHANGE = "least rate / rate with nothing stored"
P99_CHANGE = "most p99 / p99 with nothing stored"
RSS_CHANGE = "RSS, most stored over nothing stored, MB"
RSS_MOST = "server RSS, most, MB"


def levels(stage: Stage) -> dict[str, int]:
    """Name -> messages stored before anything is measured."""
    found = {NOTHING: 0, "1,000,000": stage.size(1_000_000, 100_000)}
    if most := stage.size(0, 0, 10_000_000):
        found["10,000,000"] = most
    return found


async def measure(stage: Stage) -> Figures:
    rounds = stage.size(5, 1, 9)
    _, index = await start_index(stage)
    peers: dict[str, Child] = {}
    stored: dict[str, int] = {}
    for name, count in levels(stage).items():
        if count:
            peers[name] = await _peer(stage, index, name)
            stored[name] = count
            for first in range(0, count, PORTION):
                await _publish(stage, index, name, min(PORTION, count - first), first)
    await _peer(stage, index, LITTLE)
    rates: dict[str, list[float]] = {name: [] for name in (NOTHING, *peers)}
    p99s: dict[str, list[float]] = {name: [] for name in rates}
    rss: dict[str, float] = {}
    for number in range(rounds):
        fresh = f"{NOTHING} {number}"
        peers[NOTHING] = await _peer(stage, index, fresh)
        stored[NOTHING] = 0
        for name in sorted(rates, key=lambda name: (stored[name] * (1 if number % 2 else -1), name)):
            peer = fresh if name == NOTHING else name
            await asyncio.sleep(REST_SECONDS)
            p99s[name].append(await _p99(stage, index, LITTLE if name == NOTHING else name))
            rates[name].append(await _publish(stage, index, peer, BURST_MESSAGES, stored[name]))
            await asyncio.sleep(REST_SECONDS)
            rss[name] = max(rss.get(name, 0.0), peers[name].rss_mb())
        await peers[NOTHING].end()
    return _figures(rates, p99s, rss)


def _figures(rates: dict[str, list[float]], p99s: dict[str, list[float]], rss: dict[str, float]) -> Figures:
    figures: Figures = {}
    for name in rates:
        figures[f"{name} stored: acknowledged/s"] = median(rates[name])
        figures[f"{name} stored: publish p99, ms"] = median(p99s[name])
        figures[f"{name} stored: server RSS, MB"] = rss[name]
    full = [name for name in rates if name != NOTHING]
    return figures | {
        RATE_CHANGE: min(median(rates[name]) for name in full) / median(rates[NOTHING]),
        P99_CHANGE: max(median(p99s[name]) for name in full) / median(p99s[NOTHING]),
        RSS_CHANGE: rss[full[-1]] - rss[NOTHING],
        RSS_MOST: max(rss.values()),
    }


async def _peer(stage: Stage, index: str, name: str) -> Child:
    """A peer with an empty topic; both are called after what is stored there."""
    word = _word(name)
    peer = await start_peer(stage, index, word)
    async with pubsub.Client(index) as client:
        await client.create_topic(word, on=word)
    return peer


def _word(name: str) -> str:
    return f"stored-{name.replace(',', '').replace(' ', '-')}"


def _running(index: str, name: str) -> dict[str, object]:
    return {"system": "pubsub", "where": {"index": index, "topic": _word(name)}}


async def _publish(stage: Stage, index: str, name: str, count: int, first: int) -> float:
    publisher = await stage.worker(
        "publish-many", running=_running(index, name), count=count, size_bytes=SIZE_BYTES, first=first
    )
    found = await publisher.run()
    return float(count / ((found["ended_ns"] - found["began_ns"]) / 1e9))


async def _p99(stage: Stage, index: str, name: str) -> float:
    publisher = await stage.worker(
        "publish-open-loop",
        running=_running(index, name),
        per_second=PER_SECOND,
        seconds=BURST_SECONDS,
        warm=WARM,
        size_bytes=SIZE_BYTES,
    )
    return percentile(sorted((await publisher.run())["seconds"]), 99) * 1e3


SUBJECT = "pubsub"

scenario = Scenario(
    name="growth",
    quick=False,
    long=True,
    title="publishing to a file that holds nothing, 1,000,000 and (--long) 10,000,000 messages, 100 B",
    subjects=(Subject(name=SUBJECT, measure=measure, promise="on disk (fsync) before the acknowledgement"),),
    targets=(
        Target(subject=SUBJECT, metric=RATE_CHANGE, at_least=0.85),
        Target(subject=SUBJECT, metric=P99_CHANGE, at_most=1.15),
        Target(subject=SUBJECT, metric=RSS_CHANGE, at_most=10),
        Target(subject=SUBJECT, metric=RSS_MOST, at_most=80),
    ),
)
