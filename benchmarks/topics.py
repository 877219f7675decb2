"""The part of a publisher to many topics at once. With one topic it publishes the same messages to that."""

from __future__ import annotations

import asyncio
from typing import Any

import pubsub
from benchmarks.payloads import payloads
from benchmarks.publishing import Clock
from benchmarks.worker import Cue

LOOKED_UP_AT_ONCE = 50


async def publish_topics(
    cue: Cue, *, index: str, topics: list[str], streams: int, each: int, rounds: int, size_bytes: int
) -> dict[str, Any]:
    """Streams, each to one of the topics. In a round, what a topic gets is one call, and all topics are at once."""
    async with pubsub.Client(index) as client:
        portion = each // rounds
        parts: list[dict[str, list[bytes]]] = [{topic: [] for topic in topics} for _ in range(rounds)]
        for number, part in enumerate(parts):
            for stream in range(streams):
                part[topics[stream % len(topics)]] += payloads(stream, portion, size_bytes, number * portion)
        for first in range(0, len(topics), LOOKED_UP_AT_ONCE):  # before the clock starts
            part = topics[first : first + LOOKED_UP_AT_ONCE]
            await asyncio.gather(*(client.query(topic, limit=1) for topic in part))
        await cue.ready()
        clock = Clock()
        for part in parts:
            await asyncio.gather(*(client.publish_many(topic, part[topic]) for topic in topics))
        return clock.stop()
