"""One run: start a cluster, load it, do what is planned, mend everything, look whether it works, check the history."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pubsub
from tests.torture.checker import Verdict, check
from tests.torture.cluster import Cluster
from tests.torture.faults import Faults
from tests.torture.history import Broken, Fault, History
from tests.torture.plan import draw_rounds
from tests.torture.workload import Workload
from tests.waiting import wait_until

REPLICAS = 3
RESUME_SECONDS = 40.0
"""After a round is healed, within so long each topic takes publishes again."""
SETTLE_SECONDS = 60.0
"""At the end, within so long all copies are in sync, everything is read, and the files are equal."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    seed: int
    seconds: float
    """For so long new faults are begun, from when everything serves."""
    ttl: float = 2.0
    peers: int = 5
    topics: int = 4
    publishers: int = 2
    subscribers: int = 2
    damage: bool = False
    kinds: tuple[str, ...] = ()
    """Only these faults; all, where it is empty."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    verdict: Verdict
    seconds: float
    faults: int


async def run(directory: Path, settings: Settings, say: Callable[[str], None] = lambda _: None) -> Outcome:
    """Run it; `directory` keeps the history, the data and what the processes said."""
    history = History(directory / "history.jsonl")
    began = time.monotonic()
    done = 0
    try:
        async with Cluster(directory, ttl=settings.ttl, peers=settings.peers) as cluster:
            try:
                done = await _torture(cluster, history, settings, say)
            finally:
                cluster.write_logs()
    finally:
        history.close()
    return Outcome(verdict=check(history.events), seconds=time.monotonic() - began, faults=done)


async def _torture(cluster: Cluster, history: History, settings: Settings, say: Callable[[str], None]) -> int:
    topics = [f"t{number}" for number in range(settings.topics)]
    async with pubsub.Client(cluster.index_addresses, timeout_seconds=10) as client:
        policy = {"replicas": REPLICAS, "replica_lag_seconds": settings.ttl}
        for topic in topics:
            await client.create_topic(topic, policy=policy)
        for topic in topics:
            await wait_until(lambda topic=topic: whole(client, topic), 20, f"all copies of {topic} in sync")
        load = Workload(cluster.index_addresses, topics, history, settings.seed)
        load.start(publishers=settings.publishers, subscribers=settings.subscribers)
        try:
            faults = Faults(cluster, client, topics, history)
            fine = await _rounds(cluster, faults, load, history, settings, say)
            say(f"{history.seconds:6.1f} s  everything is mended; waiting for the end of it")
            await load.stop()
            if fine:
                await _settle(cluster, client, load, history)
        finally:
            await load.close()
        return faults.done


async def _rounds(
    cluster: Cluster,
    faults: Faults,
    load: Workload,
    history: History,
    settings: Settings,
    say: Callable[[str], None],
) -> bool:
    """Round after round until the time is over; False: a topic did not come back."""
    chance = random.Random(settings.seed)
    rounds = draw_rounds(
        settings.seed,
        peers=settings.peers,
        topics=settings.topics,
        ttl=settings.ttl,
        damage=settings.damage,
    )
    until = history.seconds + settings.seconds

    async def all_whole() -> bool:
        return all([await whole(faults.client, topic) for topic in load.topics])

    while history.seconds < until:
        planned = [fault for fault in next(rounds) if not settings.kinds or fault.kind in settings.kinds]
        if not planned:
            continue
        say(f"{history.seconds:6.1f} s  {sum(load.end.values()):,} messages; {', '.join(map(str, planned))}")
        if chance.random() < 0.5:
            await asyncio.to_thread(cluster.take_snapshot)
        outcomes = await asyncio.gather(*map(faults.do, planned), return_exceptions=True)
        healed_at = history.seconds
        history.add(Fault(what="all healed"))
        for fault, outcome in zip(planned, outcomes, strict=True):
            if isinstance(outcome, Exception):
                history.add(Broken(client=fault.kind, error=repr(outcome)))
                return False
        if not await _resumed(load, history, healed_at):
            return False
        if settings.damage:  # one damaged copy at a time: more than min_in_sync allows is not promised
            await wait_until(all_whole, SETTLE_SECONDS, "all copies in sync")
    return True


async def _resumed(load: Workload, history: History, healed_at: float) -> bool:
    """Whether each topic takes publishes again, in time."""

    def stuck() -> list[str]:
        return [topic for topic in load.topics if load.acknowledged_at[topic] <= healed_at]

    try:
        await wait_until(lambda: not stuck(), RESUME_SECONDS)
    except AssertionError:
        told = f"stuck: no publish acknowledged in {RESUME_SECONDS:g} s after all was healed"
        history.add(Broken(client=", ".join(stuck()), error=told))
        return False
    return True


async def _settle(cluster: Cluster, client: pubsub.Client, load: Workload, history: History) -> None:
    """Everything is mended: now it all must come right by itself."""

    async def all_whole() -> bool:
        return all([await whole(client, topic) for topic in load.topics])

    def all_read() -> bool:
        return all(offset >= load.end[topic] for (topic, _), offset in load.read_to.items())

    async def sound() -> bool:
        parts = [part for topic in load.topics for part in await client.verify(topic)]
        return all(part.sound for part in parts)

    async def equal() -> bool:
        for topic in load.topics:
            holders = (await client.topic(topic)).replicas
            copies = [await asyncio.to_thread(cluster.read_copy, peer, topic) for peer in holders]
            if any(copy is None or copy.offsets != copies[0].offsets for copy in copies):  # type: ignore[union-attr]
                return False
            if len(copies[0].offsets) < load.end[topic]:  # type: ignore[union-attr]
                return False
            if any(load.read_to[key] != len(copies[0].offsets) for key in load.read_to if key[0] == topic):  # type: ignore[union-attr]
                return False
        return True

    for condition, what in (
        (all_whole, "all copies in sync"),
        (lambda: _publish_last(load), "a last publish to each topic"),
        (all_read, "every subscriber has read what was acknowledged"),
        (sound, "all copies fit their checksums and each other, as verify reads them"),
        (equal, "the copies' files are equally long, and read to the end"),
    ):
        try:
            await wait_until(condition, SETTLE_SECONDS, what)
        except (AssertionError, pubsub.PubsubError) as error:
            history.add(Broken(client="settling", error=str(error)))
    for topic in load.topics:
        for peer in (await client.topic(topic)).replicas:
            copy = await asyncio.to_thread(cluster.read_copy, peer, topic)
            if copy is None:
                history.add(Broken(client=peer, error=f"has no copy of {topic}, of which it is a replica"))
            else:
                history.add(copy)


async def _publish_last(load: Workload) -> bool:
    await asyncio.gather(*(load.publish_last(topic, SETTLE_SECONDS / 2) for topic in load.topics))
    return True


async def whole(client: pubsub.Client, topic: str) -> bool:
    """Online, with all its replicas in sync, and enough of them."""
    try:
        info = await client.topic(topic)
    except pubsub.PubsubError:
        return False
    return info.online and len(info.replicas) >= REPLICAS and set(info.in_sync) == set(info.replicas)
