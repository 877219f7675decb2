"""The part of a subscriber: receive one message after the other, then verify that all came, once, in order.

Payloads are kept while the clock runs and verified after it stopped. A subscriber that gets nothing for a while
gives up, and the run has failed; after the last message it listens a little longer, for any that come twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.payloads import HEAD, instants, verify
from benchmarks.publishing import WARM_STREAM
from benchmarks.readings import RunFailedError
from benchmarks.systems.names import Driver, driver
from benchmarks.worker import Cue

SILENCE_SECONDS = 30.0
LINGER_SECONDS = 0.2


async def subscribe(
    cue: Cue,
    *,
    running: dict[str, Any],
    streams: int = 0,
    each: int = 0,
    counts: Sequence[int] = (),
    warm: int = 0,
    from_start: bool = False,
    timed: bool = False,
    others: bool = False,
    topics: int = 0,
) -> dict[str, Any]:
    """Receive `streams` times `each` messages, and `warm` before them.

    Args:
        counts: so many of each stream instead.
        from_start: what is stored too; otherwise only what comes after this says that it is ready.
        timed: report how long each was on its way.
        others: messages of other streams may follow, and are let pass.
        topics: from so many topics instead of from one.
    """
    subscriber = driver(running)
    await subscriber.open()
    received: list[bytes] = []
    at_ns: list[int] = []
    if not from_start:
        await _subscribe(subscriber, topics, from_start)
    await cue.ready()
    cpu = time.process_time()
    began_ns = time.monotonic_ns()
    if from_start:
        await _subscribe(subscriber, topics, from_start)
    expected = dict(enumerate(counts or [each] * streams)) | ({WARM_STREAM: warm} if warm else {})
    count = sum(expected.values())
    ended_ns = await _receive(subscriber, received, at_ns, count, timed)
    cpu = time.process_time() - cpu
    extra = [] if others else await _linger(subscriber)
    await subscriber.close()
    verify(received + extra, expected)
    found: dict[str, Any] = {"began_ns": began_ns, "ended_ns": ended_ns, "cpu_seconds": cpu}
    if timed:
        found["seconds"] = [
            (at - intended) / 1e9 for at, intended in zip(at_ns, instants(received), strict=True) if intended
        ]
    return found


async def _subscribe(subscriber: Driver, topics: int, from_start: bool) -> None:
    if topics:
        await subscriber.subscribe_topics(topics, from_start=from_start)
    else:
        await subscriber.subscribe(from_start=from_start)


async def _receive(
    subscriber: Driver, received: list[bytes], at_ns: list[int], count: int, timed: bool
) -> int:
    def take_timed(message: bytes) -> None:
        at_ns.append(time.monotonic_ns())
        received.append(message)

    receiving = asyncio.create_task(
        subscriber.receive(take_timed if timed else received.append, count), name="benchmark: receive"
    )
    before = -1
    while not (await asyncio.wait([receiving], timeout=SILENCE_SECONDS))[0]:
        if len(received) == before:
            receiving.cancel()
            last = HEAD.unpack_from(received[-1])[:2] if received else "nothing"
            raise RunFailedError(
                f"nothing for {SILENCE_SECONDS:g} s after {len(received)} of {count} messages; the last was {last}"
            )
        before = len(received)
    ended_ns = time.monotonic_ns()
    receiving.result()
    return ended_ns


async def _linger(subscriber: Driver) -> list[bytes]:
    extra: list[bytes] = []
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            await subscriber.receive(extra.append, 1 << 62)
    except TimeoutError:
        pass
    return extra
