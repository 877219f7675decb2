"""This project: an index with its embedded registry, and one peer, both as the command line starts them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pubsub
from benchmarks.readings import RunFailedError
from benchmarks.stage import READY_SECONDS, Child, Stage, free_port
from benchmarks.systems.names import Running

TOPIC = "bench"
PEER = "bench"
COMMAND = (sys.executable, "-m", "pubsub")
POLL_SECONDS = 0.05


class System:
    """`pubsub index serve` and `pubsub peer serve`."""

    name = "pubsub"
    promise = "on disk (fsync) before the acknowledgement"
    share = 1.0

    def missing(self) -> None:
        return None

    async def start(self, stage: Stage) -> Running:
        index = await self._index(stage)
        data = stage.directory / "peer"
        peer = await stage.command(
            "peer", *COMMAND, "peer", "serve", PEER, "--data", str(data), "--index", index
        )
        async with pubsub.Client(index) as client:
            await _until(lambda: _alive(client, PEER), peer)
            await client.create_topic(TOPIC, on=PEER)
        return Running(system=self.name, where={"index": index, "topic": TOPIC}, store=peer)

    async def in_process(self, stage: Stage) -> dict[str, Any]:
        """What a worker is told that is to be the peer itself."""
        data = str(stage.directory / "peer")
        return {
            "system": self.name,
            "where": {"index": await self._index(stage), "topic": TOPIC, "data": data},
        }

    async def _index(self, stage: Stage) -> str:
        address, registry = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        child = await stage.command(
            "index", *COMMAND, "index", "serve", "--listen", address, "--registry-listen", registry
        )
        async with pubsub.Client(address) as client:
            await _until(lambda: _answers(client), child)
        return address


async def start_peers(stage: Stage, count: int) -> str:
    """An index, and the peers bench-0, bench-1 and so on, without topics; returns the index's address."""
    index = await System()._index(stage)
    names = [f"{PEER}-{number}" for number in range(count)]
    peers = {}
    for name in names:
        data = str(stage.directory / name)
        peers[name] = await stage.command(
            name, *COMMAND, "peer", "serve", name, "--data", data, "--index", index
        )
    async with pubsub.Client(index) as client:
        for name, peer in peers.items():
            await _until(lambda name=name: _alive(client, name), peer)  # type: ignore[misc]
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

    async def publish(self, payload: bytes) -> None:
        await self._client.publish(self._topic, payload)

    async def subscribe(self, *, from_start: bool) -> None:
        start = "earliest" if from_start else "latest"
        self._messages = self._client.subscribe(self._topic, start=start)
        await self._messages.open()

    async def receive(self, take: Callable[[bytes], object], count: int) -> None:
        left = count
        async for message in self._messages:
            take(message.payload)  # type: ignore[arg-type]
            left -= 1
            if not left:
                return
