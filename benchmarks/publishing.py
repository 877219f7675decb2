"""The parts of a publisher: all at once, many callers, one at a time, and at a fixed rate.

Each reports when it began and ended (ns of the monotonic clock, which all processes of a machine share), its CPU time,
and what was asked of it. Payloads are made before the clock starts.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from typing import Any

from benchmarks.bare_writes import BareWrites
from benchmarks.pacing import Pace
from benchmarks.payloads import payload, payloads, verify
from benchmarks.readings import RunFailedError
from benchmarks.systems.names import Driver, driver
from benchmarks.worker import Cue

WARM_STREAM = 0xFFFF_FFFF
"""Stream of the messages that open connections and fill caches before the clock starts."""

READ_BACK_SECONDS = 60.0

PORTION = 10_000

BURST = 100
"""Publishes, then as many bare writes: short beside the minutes in which a shared disk changes its pace."""


async def publish_many(
    cue: Cue, *, running: dict[str, Any], count: int, size_bytes: int, first: int = 0
) -> dict[str, Any]:
    """All messages in one call."""
    publisher = driver(running)
    await publisher.open()
    messages = payloads(0, count, size_bytes, first)
    await cue.ready()
    clock = Clock()
    await publisher.publish_many(messages)
    found = clock.stop()
    await publisher.close()
    return found


async def publish_for(
    cue: Cue,
    *,
    running: dict[str, Any],
    stream: int,
    seconds: float,
    size_bytes: int,
    portions: int,
    again: bool = False,
) -> dict[str, Any]:
    """Portions in one call each, two under way, until the time or they are over or SIGUSR1 ends it; reports when each
    was acknowledged. With `again`, after the last portion comes the first.
    """
    publisher = driver(running)
    await publisher.open()
    messages = payloads(stream, portions * PORTION, size_bytes)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, over.set)
    await cue.ready()
    clock = Clock()
    done: list[tuple[int, int]] = []
    starts = range(0, len(messages), PORTION)
    taken = itertools.cycle(starts) if again else iter(starts)

    async def publish() -> None:
        for start in taken:
            await publisher.publish_many(messages[start : start + PORTION])
            done.append((time.monotonic_ns(), PORTION))
            if over.is_set() or done[-1][0] - clock.began_ns > seconds * 1e9:
                return

    await asyncio.gather(publish(), publish())
    found = clock.stop()
    await publisher.close()
    return found | {"portions": done}


async def publish_round_robin(
    cue: Cue, *, running: dict[str, Any], topics: int, each: int, size_bytes: int
) -> dict[str, Any]:
    """One message to each of many topics, again and again; a topic is a stream."""
    publisher = driver(running)
    await publisher.open()
    messages = [payload(topic, number, size_bytes) for number in range(each) for topic in range(topics)]
    await cue.ready()
    clock = Clock()
    await publisher.publish_round_robin(messages, topics)
    found = clock.stop()
    await publisher.close()
    return found


async def publish_callers(
    cue: Cue, *, running: dict[str, Any], callers: int, each: int, size_bytes: int
) -> dict[str, Any]:
    """Many callers at once, each awaiting one publish after the other; a caller is a stream."""
    publisher = driver(running)
    await publisher.open()
    messages = [payloads(caller, each, size_bytes) for caller in range(callers)]

    async def call(own: list[bytes]) -> None:
        for message in own:
            await publisher.publish(message)

    await cue.ready()
    clock = Clock()
    await asyncio.gather(*map(call, messages))
    found = clock.stop()
    await publisher.close()
    return found


async def publish_one_by_one(
    cue: Cue,
    *,
    running: dict[str, Any],
    count: int,
    warm: int,
    size_bytes: int,
    directory: str,
    replay: bool = True,
) -> dict[str, Any]:
    """One awaited publish at a time; reports how long each took. Reads all of it at the end: with `replay` by a new
    subscription, without by one that was there before.

    Between bursts of publishes come bursts of bare writes to the same disk, so that both see it in the same mood.
    """
    publisher = driver(running)
    await publisher.open()
    messages = payloads(0, count, size_bytes)
    writes = BareWrites(directory)
    if not replay:
        await publisher.subscribe(from_start=False)
    await _warm(publisher, warm, size_bytes)
    await cue.ready()
    took = []
    for start in range(0, count, BURST):
        writes.burst(BURST)
        took += await _timed(publisher, messages[start : start + BURST])
    writes.close()
    if replay:
        await publisher.subscribe(from_start=True)
    await _read_back(publisher, warm, count)
    return {"seconds": took, "growing": writes.growing, "within": writes.within}


async def publish_in_turn(
    cue: Cue, *, runnings: list[dict[str, Any]], count: int, warm: int, size_bytes: int
) -> dict[str, Any]:
    """One awaited publish at a time, in bursts here and there in turn, so that both see the machine in the same mood;
    reports how long each took, for each of `runnings`. Reads all of it at the end.
    """
    publishers = [driver(running) for running in runnings]
    for publisher in publishers:
        await publisher.open()
        await _warm(publisher, warm, size_bytes)
    messages = payloads(0, count, size_bytes)
    await cue.ready()
    took: list[list[float]] = [[] for _ in publishers]
    for start in range(0, count, BURST):
        for publisher, seconds in zip(publishers, took, strict=True):
            seconds += await _timed(publisher, messages[start : start + BURST])
    for publisher in publishers:
        await publisher.subscribe(from_start=True)
        await _read_back(publisher, warm, count)
    return {"seconds": took}


async def _timed(publisher: Driver, messages: list[bytes]) -> list[float]:
    """One awaited publish at a time; how long each took."""
    took = []
    for message in messages:
        began = time.perf_counter()
        await publisher.publish(message)
        took.append(time.perf_counter() - began)
    return took


async def _read_back(publisher: Driver, warm: int, count: int) -> None:
    """Read, by a subscription that is there, what one stream and the warming up have published, and close."""
    stored: list[bytes] = []
    async with asyncio.timeout(READ_BACK_SECONDS):
        await publisher.receive(stored.append, warm + count)
    await publisher.close()
    verify(stored, {WARM_STREAM: warm, 0: count})


async def publish_open_loop(
    cue: Cue, *, running: dict[str, Any], per_second: int, seconds: float, warm: int, size_bytes: int
) -> dict[str, Any]:
    """At a fixed rate, whether or not earlier ones have been acknowledged; times count from the intended instant."""
    publisher = driver(running)
    await publisher.open()
    await _warm(publisher, warm, size_bytes)
    await cue.ready()
    count = int(per_second * seconds)
    took: list[float] = []
    clock = Clock()

    async def send(number: int, intended_ns: int) -> None:
        await publisher.publish(payload(0, number, size_bytes, intended_ns))
        took.append((time.monotonic_ns() - intended_ns) / 1e9)

    async with asyncio.TaskGroup() as group:
        with Pace(1.0 / per_second) as pace:
            number = 0
            while number < count:
                for intended_ns in await pace.due():
                    group.create_task(send(number, intended_ns))
                    number += 1
                    if number == count:
                        break
    found = clock.stop()
    await publisher.close()
    if len(took) != count:
        raise RunFailedError(f"{len(took)} of {count} publishes were acknowledged")
    return found | {"seconds": took}


async def _warm(publisher: Driver, count: int, size_bytes: int) -> None:
    for message in payloads(WARM_STREAM, count, size_bytes):
        await publisher.publish(message)


class Clock:
    """Wall and CPU time of a part."""

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self.began_ns = time.monotonic_ns()

    def stop(self) -> dict[str, Any]:
        ended_ns = time.monotonic_ns()
        return {
            "began_ns": self.began_ns,
            "ended_ns": ended_ns,
            "cpu_seconds": time.process_time() - self._cpu,
        }
