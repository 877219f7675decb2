"""This project: an index with its embedded registry, and one peer, both as the command line starts them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pubsub
from benchmarks.readings import RunFailedError
from benchmarks.stage import READY_SECONDS, Child, Stage, free_port
from benchmarks.systems.names import Running

TOPIC = "bench"
PEER = "bench"
COMMAND = (sys.executable, "-m", "pubsub")
POLL_SECONDS = 0.05
CREATED_AT_ONCE = 50
WINDOW_MESSAGES = 50_000
"""What a publisher to many topics has in hand at once: each topic's part of it is one call."""


class System:
    """`pubsub index serve` and `pubsub peer serve`."""

    name = "pubsub"
    promise = "on disk (fsync) before the acknowledgement"
    share = 1.0

    def missing(self) -> None:
        return None

    async def start(self, stage: Stage, *, topics: int = 0, fresh: bool = False) -> Running:
        _, index = await start_index(stage)
        data = stage.directory / "peer"
        peer = await stage.command(
            "peer", *COMMAND, "peer", "serve", PEER, "--data", str(data), "--index", index
        )
        async with pubsub.Client(index) as client:
            await _until(lambda: _alive(client, PEER), peer)
            await create_topics(client, [TOPIC, *(f"{TOPIC}.{number}" for number in range(topics))])
        return Running(system=self.name, where={"index": index, "topic": TOPIC}, store=peer)

    async def in_process(self, stage: Stage) -> dict[str, Any]:
        """What a worker is told that is to be the peer itself."""
        _, index = await start_index(stage)
        data = str(stage.directory / "peer")
        return {"system": self.name, "where": {"index": index, "topic": TOPIC, "data": data}}


async def create_topics(client: pubsub.Client, names: Sequence[str]) -> None:
    """Create topics on the one peer, some at a time."""
    for first in range(0, len(names), CREATED_AT_ONCE):
        part = names[first : first + CREATED_AT_ONCE]
        await asyncio.gather(*(client.create_topic(name, on=PEER) for name in part))


async def start_index(stage: Stage, *options: str) -> tuple[Child, str]:
    """An index, with its embedded registry unless the options say otherwise; returns it with its address."""
    address, registry = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    where = () if "--redis" in options else ("--registry-listen", registry)
    child = await stage.command("index", *COMMAND, "index", "serve", "--listen", address, *where, *options)
    async with pubsub.Client(address) as client:
        await _until(lambda: _answers(client), child)
    return child, address


async def start_peer(stage: Stage, index: str, name: str) -> Child:
    """One more peer, without topics."""
    data = str(stage.directory / name)
    peer = await stage.command(name, *COMMAND, "peer", "serve", name, "--data", data, "--index", index)
    async with pubsub.Client(index) as client:
        await _until(lambda: _alive(client, name), peer)
    return peer


async def start_peers(stage: Stage, count: int) -> str:
    """An index, and the peers bench-0, bench-1 and so on, without topics; returns the index's address."""
    _, index = await start_index(stage)
    for number in range(count):
        await start_peer(stage, index, f"{PEER}-{number}")
    return index


async def _until(happens: Callable[[], Any], child: Child) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not await happens():
                if child.process.returncode is not None:
                    raise RunFailedError(f"{child.name} ended: {child.said()}")
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise RunFailedError(f"{child.name} was not ready in {READY_SECONDS:g} s: {child.said()}") from None


async def _answers(client: pubsub.Client) -> bool:
    try:
        return isinstance(await client.status(), dict)
    except pubsub.PubsubError:
        return False


async def _alive(client: pubsub.Client, name: str) -> bool:
    return any(peer.peer == name and peer.alive for peer in await client.peers())


def _peer(data: str, index: str) -> pubsub.Client:
    from pubsub.peer.peer import Peer  # not for the workers that are only clients: it brings SQLAlchemy along

    return Peer(PEER, data=data, index=index)


class Driver:
    """`pubsub.Client`; or, with a data directory, `pubsub.Peer` in this process with the topic in it."""

    def __init__(self, index: str, topic: str, data: str | None = None) -> None:
        self._topic = topic
        self._data = data
        self._client = pubsub.Client(index) if data is None else _peer(data, index)

    async def open(self) -> None:
        await self._client.open()
        if self._data is not None:
            await self._client.create_topic(self._topic)

    async def close(self) -> None:
        await self._client.close()

    async def publish_many(self, payloads: list[bytes]) -> None:
        await self._client.publish_many(self._topic, payloads)

    async def publish_round_robin(self, payloads: list[bytes], topics: int) -> None:
        """Two windows are under way: while the peer stores one, the next is sorted by topic and sent."""
        client, window = self._client, max(topics, WINDOW_MESSAGES // topics * topics)
        names = [f"{self._topic}.{number}" for number in range(topics)]

        async def publish(first: int) -> None:
            part = payloads[first : first + window]
            await asyncio.gather(
                *(client.publish_many(name, part[number::topics]) for number, name in enumerate(names))
            )

        before: asyncio.Task[None] | None = None
        for first in range(0, len(payloads), window):
            after = asyncio.create_task(publish(first), name="benchmark: a window of messages")
            if before is not None:
                await before
            before = after
        if before is not None:
            await before

    def publish(self, payload: bytes) -> Awaitable[object]:
        return self._client.publish(self._topic, payload)

    async def subscribe(self, *, from_start: bool) -> None:
        await self._subscribe(self._topic, from_start)

    async def subscribe_topics(self, topics: int, *, from_start: bool) -> None:
        await self._subscribe(f"{self._topic}.*", from_start)

    async def _subscribe(self, pattern: str, from_start: bool) -> None:
        self._messages = self._client.subscribe(pattern, start="earliest" if from_start else "latest")
        await self._messages.open()

    async def receive(self, take: Callable[[bytes], object], count: int) -> None:
        left = count
        async for message in self._messages:
            take(message.payload)  # type: ignore[arg-type]
            left -= 1
            if not left:
                return
