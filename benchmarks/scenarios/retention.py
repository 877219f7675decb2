"""What retention costs those who publish meanwhile: an open loop without it and with it, in turn, in short bursts.

In turn and at one peer, so that both see the machine, and a shared disk, in the same mood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pubsub
from benchmarks.readings import Figures, RunFailedError, Scenario, Subject, Target, percentile
from benchmarks.stage import Stage
from benchmarks.systems.names import Running, reference
from benchmarks.systems.ours import TOPIC, System

SIZE_BYTES = 100
PER_SECOND = 1000
WARM = 50
BURST_SECONDS = 2
REST_SECONDS = 1.5
"""After filling a topic: long enough for the checkpoint that follows."""
KEYS = 1000
TIMES = "p99 / p99 without"
MOST_TIMES = 2.0
NO_LIMIT = {"max_messages": "off", "compact": "off"}

POLICIES: dict[str, Callable[[int], dict[str, Any]]] = {
    "in its daily round": lambda messages: {"max_messages": messages},
    "catching up": lambda messages: {"max_messages": messages // 20},
    f"compacting {KEYS:,} keys": lambda _: {"compact": True},
}
"""Who is measured -> the policy that is set before a burst with it, of a topic of so many messages."""


def _subject(name: str, policy: Callable[[int], dict[str, Any]]) -> Subject:
    async def measure(stage: Stage) -> Figures:
        stored, bursts = stage.size(300_000, 50_000), stage.size(6, 2)
        running = await System().start(stage)
        without: list[float] = []
        with_: list[float] = []
        removed = 0
        async with pubsub.Client(running.where["index"]) as client:
            for number in range(bursts):
                await client.set_policy(TOPIC, **NO_LIMIT)
                await _fill(client, stored)
                await asyncio.sleep(REST_SECONDS)
                if number % 2 == 0:
                    without += await _burst(stage, running)
                before = await client.set_policy(TOPIC, **policy((await client.topic(TOPIC)).messages or 0))
                with_ += await _burst(stage, running)
                after = await client.set_policy(TOPIC, **NO_LIMIT)
                removed += _missing(after) - _missing(before)
                if number % 2 == 1:
                    without += await _burst(stage, running)
        if not removed:
            raise RunFailedError("nothing was removed meanwhile")
        return _figures(without, with_) | {"removed/s": removed / (bursts * BURST_SECONDS)}

    return Subject(name=name, measure=measure)


async def _fill(client: pubsub.Client, stored: int) -> None:
    """Publish until the topic has so many messages."""
    keys = [f"key {n}" for n in range(KEYS)]
    while ((await client.topic(TOPIC)).messages or 0) < stored:
        for _ in range(10):
            await client.publish_many(TOPIC, [pubsub.NewMessage(bytes(SIZE_BYTES), key=key) for key in keys])


async def _burst(stage: Stage, running: Running) -> list[float]:
    publisher = await stage.worker(
        "publish-open-loop",
        running=reference(running),
        per_second=PER_SECOND,
        seconds=BURST_SECONDS,
        warm=WARM,
        size_bytes=SIZE_BYTES,
    )
    seconds: list[float] = (await publisher.run())["seconds"]
    return seconds


def _missing(info: pubsub.TopicInfo) -> int:
    """How many of the messages that were ever published are gone."""
    return (info.next_offset or 0) - (info.messages or 0)


def _figures(without: list[float], with_: list[float]) -> Figures:
    figures: Figures = {}
    for word, seconds in (("without", without), ("with", with_)):
        for percent in (50, 99):
            figures[f"p{percent} {word}, ms"] = percentile(sorted(seconds), percent) * 1e3
    return figures | {TIMES: figures["p99 with, ms"] / figures["p99 without, ms"]}


scenario = Scenario(
    name="retention",
    quick=False,
    long=True,
    title="open loop at 1,000/s, 100 B, to 300,000 stored messages: while some are removed, and while none are",
    subjects=tuple(_subject(*subject) for subject in POLICIES.items()),
    targets=tuple(Target(subject=name, metric=TIMES, at_most=MOST_TIMES) for name in POLICIES),
)
