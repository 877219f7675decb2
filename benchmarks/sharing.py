"""The parts of members of groups: share what is stored, and let leases run out.

Every message is acknowledged by a call of its own, and counts when its acknowledgement is on disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

import pubsub
from benchmarks.payloads import HEAD
from benchmarks.readings import RunFailedError
from benchmarks.worker import Cue

GROUP = "workers"
QUIET_SECONDS = 1.0
"""A process whose members have got nothing for so long is done."""
EXPIRING_LEASE_SECONDS = 0.5
PATIENCE_SECONDS = 60.0


async def share(cue: Cue, *, running: dict[str, Any], members: int, max_in_flight: int) -> dict[str, Any]:
    """Members of one group in this process; reports the numbers of the messages that they processed."""
    async with pubsub.Client(running["where"]["index"]) as client:
        count = Acknowledged()
        topic = running["where"]["topic"]
        shares = [client.subscribe(topic, group=GROUP, max_in_flight=max_in_flight) for _ in range(members)]
        await cue.ready()
        cpu, began_ns = time.process_time(), time.monotonic_ns()
        for member in shares:
            await member.open()
        running_members = [asyncio.create_task(member.run(count.handle)) for member in shares]
        await count.quiet()
        cpu = time.process_time() - cpu
        for member in shares:
            await member.close()
        await asyncio.gather(*running_members)
    return {
        "began_ns": began_ns,
        "ended_ns": count.ended_ns,
        "cpu_seconds": cpu,
        "numbers": count.numbers,
    }


class Acknowledged:
    """Counts messages and their acknowledgements; notes when the last one came."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.acknowledged = 0
        self.ended_ns = 0

    async def handle(self, message: pubsub.GroupMessage) -> None:
        self.numbers.append(HEAD.unpack_from(message.payload or b"")[1])
        asyncio.ensure_future(message.ack()).add_done_callback(self._on_ack)

    def _on_ack(self, ack: asyncio.Future[None]) -> None:
        if ack.exception() is None:
            self.acknowledged += 1
            self.ended_ns = time.monotonic_ns()

    async def quiet(self) -> None:
        """Wait until nothing has come for a while.

        Raises:
            RunFailedError: not all that came could be acknowledged.
        """
        before = -1
        while len(self.numbers) != before or not before:
            before = len(self.numbers)
            await asyncio.sleep(QUIET_SECONDS)
        if self.acknowledged != len(self.numbers):
            raise RunFailedError(f"{self.acknowledged} of {len(self.numbers)} acknowledgements came through")


async def leases(
    cue: Cue, *, running: dict[str, Any], pid: int, count: int, in_flight: int, rounds: int
) -> dict[str, Any]:
    """`rounds` new groups, in each of which one member acknowledges `count` messages; then one more group, whose member
    lets `in_flight` leases run out, `rounds` times.

    Reports seconds, and CPU seconds of the peer, which is process `pid`.
    """
    topic = running["where"]["topic"]
    async with pubsub.Client(running["where"]["index"]) as client:

        async def acknowledge() -> None:
            for number in range(rounds):
                async with client.subscribe(topic, group=f"{GROUP}-{number}", max_in_flight=1000) as messages:
                    await _acknowledge(messages, count)

        await cue.ready()
        acknowledging = await _cost(pid, acknowledge)
        async with client.subscribe(
            topic,
            group=GROUP,
            max_in_flight=in_flight,
            lease_seconds=EXPIRING_LEASE_SECONDS,
            max_attempts=1_000_000,
            backoff_seconds=0,
        ) as messages:
            await _take(messages, in_flight)  # and lets go of them, so that nobody extends their leases
            expiring = await _cost(pid, lambda: _let_expire(messages, in_flight, rounds))
    return {"acknowledging": acknowledging, "expiring": expiring}


async def _cost(pid: int, work: Callable[[], Awaitable[None]]) -> dict[str, float]:
    peer = psutil.Process(pid)
    before, began = peer.cpu_times(), time.perf_counter()
    await work()
    seconds, after = time.perf_counter() - began, peer.cpu_times()
    return {"seconds": seconds, "cpu_seconds": after.user + after.system - before.user - before.system}


async def _acknowledge(messages: pubsub.GroupSubscription, count: int) -> None:
    left = count
    async with asyncio.timeout(PATIENCE_SECONDS):
        while left:
            batch = await messages.next_batch(left)
            left -= len(batch)
            acks = [message.ack() for message in batch]
        await asyncio.gather(*acks)


async def _let_expire(messages: pubsub.GroupSubscription, in_flight: int, rounds: int) -> None:
    for _ in range(rounds):
        await _take(messages, in_flight)


async def _take(messages: pubsub.GroupSubscription, count: int) -> None:
    left = count
    async with asyncio.timeout(PATIENCE_SECONDS):
        while left:
            left -= len(await messages.next_batch(left))
