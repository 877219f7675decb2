"""The part of many subscribers at once: each on a connection of its own, each verifying what it gets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.payloads import HEAD
from benchmarks.publishing import WARM_STREAM
from benchmarks.readings import RunFailedError
from benchmarks.systems.names import Driver, driver
from benchmarks.worker import Cue

CONNECTED_AT_ONCE = 50
PATIENCE_SECONDS = 60.0


class _Member:
    """One subscriber: counts what comes and notes how long it was on its way."""

    def __init__(self, subscriber: Driver, took: list[float]) -> None:
        self.subscriber = subscriber
        self.next = 0
        self.wrong = ""
        self._took = took

    def take(self, message: bytes) -> None:
        stream, number, at_ns = HEAD.unpack_from(message)
        if stream == WARM_STREAM:
            return
        if number != self.next and not self.wrong:
            self.wrong = f"after message {self.next - 1} came {number}"
        self.next = number + 1
        self._took.append((time.monotonic_ns() - at_ns) / 1e9)


async def subscribe_crowd(
    cue: Cue, *, running: dict[str, Any], connections: int, count: int, warm: int
) -> dict[str, Any]:
    """Connect, wait for the sign, and receive `count` messages on each connection, after `warm` others."""
    took: list[float] = []
    members = [_Member(driver(running), took) for _ in range(connections)]

    async def connect(member: _Member) -> None:
        await member.subscriber.open()
        await member.subscriber.subscribe(from_start=False)

    for first in range(0, connections, CONNECTED_AT_ONCE):
        await asyncio.gather(*map(connect, members[first : first + CONNECTED_AT_ONCE]))
    await cue.ready()
    cpu, began = time.process_time(), time.perf_counter()
    receiving = [
        asyncio.create_task(member.subscriber.receive(member.take, count + warm), name="benchmark: receive")
        for member in members
    ]
    await asyncio.wait(receiving, timeout=PATIENCE_SECONDS)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    for task in receiving:
        task.cancel()
    await asyncio.wait(receiving)
    await asyncio.gather(*(member.subscriber.close() for member in members))
    for member in members:
        if member.wrong or member.next != count:
            raise RunFailedError(member.wrong or f"a subscriber got {member.next} of {count} messages")
    return {"took": took, "seconds": seconds, "cpu_seconds": cpu}
