"""What retention costs those who publish: the same open loop without it, in its daily round, and catching up."""

from __future__ import annotations

from typing import Any

import pubsub
from benchmarks.readings import Figures, Ratio, RunFailedError, Scenario, Subject, Target, latency_figures
from benchmarks.stage import Stage
from benchmarks.systems.names import Running, reference
from benchmarks.systems.ours import TOPIC, System

SIZE_BYTES = 100
PER_SECOND = 1000
WARM = 100
KEPT = 10_000
WITHOUT = "without"
P99 = "to acknowledgement p99, ms"
MOST_TIMES = 2.0

POLICIES: dict[str, dict[str, Any]] = {
    WITHOUT: {},
    "steady: max_messages of what is stored": {"max_messages": 0},
    "catching up: all but 10,000 messages go": {"max_messages": KEPT},
    "compacting the same, 1,000 keys": {"compact": True},
}
"""Who is measured -> the policy that is set just before; max_messages 0: as many as there are then."""


def _subject(name: str, policy: dict[str, Any]) -> Subject:
    async def measure(stage: Stage) -> Figures:
        stored, seconds = stage.size(1_000_000, 100_000), stage.size(10, 2)
        running = await System().start(stage)
        async with pubsub.Client(running.where["index"]) as client:
            await _fill(client, stored)
            if policy:
                await client.set_policy(
                    TOPIC, **(policy | ({"max_messages": stored} if policy.get("max_messages") == 0 else {}))
                )
            publisher = await stage.worker(
                "publish-open-loop",
                running=reference(running),
                per_second=PER_SECOND,
                seconds=seconds,
                warm=WARM,
                size_bytes=SIZE_BYTES,
            )
            sent = await publisher.run()
            removed = await _removed(client, running, stored + WARM + PER_SECOND * seconds)
        if policy and not removed:
            raise RunFailedError("nothing was removed meanwhile")
        return latency_figures("to acknowledgement", sent["seconds"], (50, 99, 99.9)) | {
            "removed meanwhile": float(removed)
        }

    return Subject(name=name, measure=measure)


async def _fill(client: pubsub.Client, count: int) -> None:
    keys = [f"key {n}" for n in range(1000)]
    for _ in range(count // len(keys)):
        await client.publish_many(TOPIC, [pubsub.NewMessage(bytes(SIZE_BYTES), key=key) for key in keys])


async def _removed(client: pubsub.Client, running: Running, published: int) -> int:
    info = await client.topic(TOPIC)
    if info.next_offset != published:
        raise RunFailedError(f"the log ends at {info.next_offset}, not at {published}")
    return published - (info.messages or 0)


scenario = Scenario(
    name="retention",
    title="open loop at 1,000/s, 100 B, to a topic of 1,000,000 stored messages of which some are removed meanwhile",
    subjects=tuple(_subject(*subject) for subject in POLICIES.items()),
    ratios=tuple(
        Ratio(subject=name, metric=P99, over=(WITHOUT, P99), name="p99 / without")
        for name in POLICIES
        if name != WITHOUT
    ),
    targets=tuple(
        Target(subject=name, metric="p99 / without", at_most=MOST_TIMES)
        for name in POLICIES
        if name != WITHOUT
    ),
)
