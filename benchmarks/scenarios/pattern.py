"""A pattern over 1,000 topics on 3 peers beside one topic with the same messages: as they come, and all stored ones.

As they come, publishing takes the time, and to 1,000 topics it takes longer than to one, whoever reads: the publisher's
time is shown, and what the pattern costs is the subscriber's CPU time.
"""

from __future__ import annotations

import asyncio

import pubsub
from benchmarks.readings import Figures, Ratio, Scenario, Subject, Target
from benchmarks.stage import Stage
from benchmarks.systems.ours import start_peers

SIZE_BYTES = 100
STREAMS = 1000
ROUNDS = 3
ONE, MANY = "one topic", "1,000 topics on 3 peers"
ACKNOWLEDGED = "first publish to last acknowledgement, s"
LIVE, REPLAY = "first publish to last delivery, s", "all that is stored, s"
LIVE_CPU, REPLAY_CPU = "live, subscriber CPU, µs/message", "stored, subscriber CPU, µs/message"
MOST = 1.5


def _subject(name: str, peers: int, topics: int, topic: str) -> Subject:
    async def measure(stage: Stage) -> Figures:
        each = stage.size(300, 30)
        count = STREAMS * each
        index = await start_peers(stage, peers)
        names = [f"bench.{number}" for number in range(topics)]
        async with pubsub.Client(index) as client:
            for start in range(0, topics, 50):
                part = enumerate(names[start : start + 50])
                await asyncio.gather(
                    *(client.create_topic(name, on=f"bench-{number % peers}") for number, name in part)
                )
        running = {"system": "pubsub", "where": {"index": index, "topic": topic}}
        subscriber = await stage.worker("subscribe", running=running, streams=STREAMS, each=each)
        publisher = await stage.worker(
            "publish-topics",
            index=index,
            topics=names,
            streams=STREAMS,
            each=each,
            rounds=ROUNDS,
            size_bytes=SIZE_BYTES,
        )
        await subscriber.ready()
        await publisher.ready()
        subscriber.go()
        publisher.go()
        sent, live = await publisher.result(), await subscriber.result()
        late = await stage.worker("subscribe", running=running, streams=STREAMS, each=each, from_start=True)
        stored = await late.run()
        return {
            ACKNOWLEDGED: (sent["ended_ns"] - sent["began_ns"]) / 1e9,
            LIVE: (live["ended_ns"] - sent["began_ns"]) / 1e9,
            REPLAY: (stored["ended_ns"] - stored["began_ns"]) / 1e9,
            LIVE_CPU: live["cpu_seconds"] / count * 1e6,
            REPLAY_CPU: stored["cpu_seconds"] / count * 1e6,
        }

    return Subject(name=name, measure=measure)


_RATIOS = {
    LIVE: "live, times one topic",
    REPLAY: "stored, times one topic",
    LIVE_CPU: "live CPU, times one topic",
    REPLAY_CPU: "stored CPU, times one topic",
}

scenario = Scenario(
    name="pattern",
    quick=False,
    long=True,
    title="a pattern over 1,000 topics on 3 peers, beside the same messages of 100 B on one topic",
    subjects=(_subject(ONE, 1, 1, "bench.0"), _subject(MANY, 3, STREAMS, "bench.*")),
    ratios=tuple(
        Ratio(subject=MANY, metric=metric, over=(ONE, metric), name=name) for metric, name in _RATIOS.items()
    ),
    targets=tuple(
        Target(subject=MANY, metric=_RATIOS[metric], at_most=MOST) for metric in (REPLAY, LIVE_CPU)
    ),
)
