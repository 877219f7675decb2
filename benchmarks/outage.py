"""The part of somebody who publishes and subscribes while the owner of the topics goes.

One caller a topic awaits one publish after the other; a topic is a stream. At the end, what a subscriber got meanwhile
and what a new one reads of the new owner is verified: all that was acknowledged, once and in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pubsub
from benchmarks.payloads import payload, verify
from benchmarks.readings import RunFailedError
from benchmarks.worker import Cue

PATIENCE_SECONDS = 60.0
SIZE_BYTES = 100


async def publish_through(
    cue: Cue, *, index: str, topics: list[str], pattern: str, seconds: float, pause_seconds: float
) -> dict[str, Any]:
    """Publish to each topic for `seconds`, waiting `pause_seconds` after each acknowledgement.

    Reports for each topic the longest silence between two acknowledgements: when it began and ended, in ns of the
    monotonic clock; and how many publishes were acknowledged.
    """
    async with (
        pubsub.Client(index, timeout_seconds=PATIENCE_SECONDS) as publisher,
        pubsub.Client(index, timeout_seconds=PATIENCE_SECONDS) as subscriber,
    ):
        live = subscriber.subscribe(pattern)
        await live.open()
        received: list[bytes] = []
        receiving = asyncio.create_task(_take(live, received), name="benchmark: receive")
        await asyncio.gather(*(publisher.query(topic, limit=1) for topic in topics))  # routes are known
        await cue.ready()
        until_ns = time.monotonic_ns() + round(seconds * 1e9)

        async def call(stream: int, topic: str) -> list[int]:
            acknowledged_ns: list[int] = []
            await asyncio.sleep(pause_seconds * stream / len(topics))  # not all topics at once
            while not acknowledged_ns or acknowledged_ns[-1] < until_ns:
                await publisher.publish(topic, payload(stream, len(acknowledged_ns), SIZE_BYTES))
                acknowledged_ns.append(time.monotonic_ns())
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)
            return acknowledged_ns

        try:
            acknowledged = await asyncio.gather(*(call(*each) for each in enumerate(topics)))
        except pubsub.PubsubError as error:
            raise RunFailedError(f"a publish failed: {error}") from error
        expected = {stream: len(times) for stream, times in enumerate(acknowledged)}
        count = sum(expected.values())
        await _until(lambda: len(received) >= count, receiving, "the live subscriber")
        await live.close()
        verify(received, expected)
        verify(await _all_stored(subscriber, pattern, count), expected)
    return {"silences": [_silence(times) for times in acknowledged], "acknowledged": count}


def _silence(acknowledged_ns: list[int]) -> tuple[int, int]:
    """The longest between two acknowledgements."""
    return max(pairwise(acknowledged_ns), key=lambda silence: silence[1] - silence[0])


async def _all_stored(client: pubsub.Client, pattern: str, count: int) -> list[bytes]:
    """What a new subscriber gets."""
    stored: list[bytes] = []
    replay = client.subscribe(pattern, start="earliest")
    await replay.open()
    receiving = asyncio.create_task(_take(replay, stored), name="benchmark: replay")
    await _until(lambda: len(stored) >= count, receiving, "a new subscriber")
    await replay.close()
    return stored


async def _take(messages: pubsub.Subscription, received: list[bytes]) -> None:
    while True:
        received += [message.payload or b"" for message in await messages.next_batch()]


async def _until(happens: Callable[[], bool], receiving: asyncio.Task[None], who: str) -> None:
    """Wait for it, then a little longer for what comes twice; end the receiving."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not happens():
                if receiving.done():
                    raise RunFailedError(f"{who} ended: {receiving.exception()}")
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise RunFailedError(f"{who} has not got all after {PATIENCE_SECONDS:g} s") from None
    await asyncio.sleep(0.2)
    receiving.cancel()
