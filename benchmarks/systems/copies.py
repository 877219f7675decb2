"""This project with copies: an index, several peers, and topics that live on some of them.

The first peer owns the topics until something happens to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

import pubsub
from benchmarks.readings import RunFailedError
from benchmarks.stage import Child, Stage
from benchmarks.systems.names import Running
from benchmarks.systems.ours import CREATED_AT_ONCE, PEER, POLL_SECONDS, TOPIC, start_index, start_peer

COPIES = 3
IN_SYNC_SECONDS = 300.0
"""Within this a copy has caught up, or something is wrong."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """An index and peers that run."""

    index: str
    """Its address."""
    peers: dict[str, Child]
    """Name -> process, in the order in which they were started."""

    @property
    def owner(self) -> Child:
        return next(iter(self.peers.values()))

    @property
    def last(self) -> str:
        """The name of the peer that was started last."""
        return list(self.peers)[-1]


class System:
    """Three peers, and a topic on the first of them, with copies on others."""

    share = 1.0

    def __init__(self, copies: int) -> None:
        self.name = "pubsub, a single copy" if copies == 1 else f'pubsub, {copies} copies, acks="all"'
        on_disk = (
            "on disk (fsync)" if copies == 1 else f"on the disks (fsync) of all of {copies} copies in sync"
        )
        self.promise = f"{on_disk} before the acknowledgement"
        self._copies = copies

    def missing(self) -> None:
        return None

    async def start(self, stage: Stage, *, topics: int = 0, fresh: bool = False) -> Running:
        cluster = await start_cluster(stage, copies=self._copies)
        return Running(system="pubsub", where=where(cluster), store=cluster.owner)


def where(cluster: Cluster, topic: str = TOPIC) -> dict[str, str]:
    """What the driver of our system needs."""
    return {"index": cluster.index, "topic": topic}


async def start_cluster(
    stage: Stage,
    *options: str,
    topics: Sequence[str] = (TOPIC,),
    copies: int = COPIES,
    policy: dict[str, object] | None = None,
) -> Cluster:
    """An index with `options`, three peers, and topics, all copies of which are in sync when this returns."""
    _, index = await start_index(stage, *options)
    names = [f"{PEER}-{number}" for number in range(COPIES)]
    cluster = Cluster(index=index, peers={name: await start_peer(stage, index, name) for name in names})
    async with pubsub.Client(index) as client:
        for first in range(0, len(topics), CREATED_AT_ONCE):
            part = topics[first : first + CREATED_AT_ONCE]
            await asyncio.gather(
                *(client.create_topic(name, on=names[0], policy=policy, replicas=copies) for name in part)
            )
    await in_sync(index, len(topics), copies)
    return cluster


async def in_sync(index: str, topics: int, copies: int = COPIES) -> None:
    """Wait until so many topics have all their copies in sync."""
    async with pubsub.Client(index) as client:
        try:
            async with asyncio.timeout(IN_SYNC_SECONDS):
                while True:
                    if sum(len(each.in_sync) == copies for each in await client.topics()) >= topics:
                        return
                    await asyncio.sleep(POLL_SECONDS if topics == 1 else 1.0)
        except TimeoutError:
            raise RunFailedError(f"not all copies were in sync after {IN_SYNC_SECONDS:g} s") from None


async def compare_copies(index: str, topic: str = TOPIC) -> None:
    """Let all copies of a topic be read and compared.

    Raises:
        RunFailedError: one is away, damaged, or unlike the others.
    """
    async with pubsub.Client(index) as client:
        if unsound := [part for part in await client.verify(topic) if not part.sound]:
            raise RunFailedError(f"{len(unsound)} ranges of copies are not sound, such as {unsound[0]}")
