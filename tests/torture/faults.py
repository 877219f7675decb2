"""Carries out what was planned, and heals it: signals, network, Redis, disks, replicas.

Rules: no two faults meet the same process at once; what cannot be done (there is no owner just now, a replica may not
be removed) is noted and left out; healing never fails in silence.
"""

from __future__ import annotations

import asyncio
import random
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psutil

import pubsub
from tests.processes import Command
from tests.torture.cluster import Cluster
from tests.torture.history import Fault, History
from tests.torture.network import CLIENT, Way
from tests.torture.plan import PlannedFault

FULL_BYTES = 4096
"""No file of a peer with a full disk may be written beyond it."""
FLAPS_SECONDS = 0.05


class LeftOutError(Exception):
    """The fault cannot be done now."""


class Faults:
    """Does planned faults to a cluster."""

    def __init__(self, cluster: Cluster, client: pubsub.Client, topics: list[str], history: History) -> None:
        self._cluster = cluster
        self.client = client
        self._topics = topics
        self._history = history
        self._busy: set[str] = set()
        self.done = 0

    async def do(self, planned: PlannedFault) -> None:
        """Wait for its time, do it, wait, heal it."""
        await asyncio.sleep(planned.after)
        try:
            async with self._begin(planned):
                self.done += 1
                await asyncio.sleep(planned.seconds)
        except LeftOutError as error:
            self._note(f"left out: {planned.kind}: {error}")

    def _begin(self, planned: PlannedFault) -> AbstractAsyncContextManager[None]:
        methods: dict[str, Callable[[PlannedFault], AbstractAsyncContextManager[None]]] = {
            "kill": self._kill,
            "terminate": self._terminate,
            "pause": self._pause,
            "cut off": self._cut_off,
            "silence": self._silence,
            "unreachable": self._unreachable,
            "without index": self._without_index,
            "apart": self._apart,
            "flap": self._flap,
            "disk full": self._disk_full,
            "kill index": self._kill_index,
            "pause index": self._pause_index,
            "flush redis": self._flush_redis,
            "stop redis": self._stop_redis,
            "old redis": self._stop_redis,
            "add replica": self._change_replicas,
            "remove replica": self._change_replicas,
            "move replica": self._change_replicas,
            "flip bytes": self._flip_bytes,
        }
        return methods[planned.kind](planned)

    def _note(self, what: str) -> None:
        self._history.add(Fault(what=what))

    @asynccontextmanager
    async def _meeting(self, planned: PlannedFault, *names: str) -> AsyncIterator[None]:
        """These are nobody else's meanwhile; notes begin and end."""
        if met := self._busy.intersection(names):
            raise LeftOutError(f"something else happens to {', '.join(met)}")
        self._busy.update(names)
        what = f"{planned.kind} {' '.join(names)}"
        self._note(what)
        try:
            yield
        finally:
            self._busy.difference_update(names)
            self._note(f"healed: {what}")

    async def _peer(self, planned: PlannedFault) -> str:
        """Whom it meets."""
        if planned.peer >= 0:
            return list(self._cluster.peers)[planned.peer]
        return (await self._topic(planned)).owner

    async def _topic(self, planned: PlannedFault) -> pubsub.TopicInfo:
        try:
            return await self.client.topic(self._topics[planned.topic])
        except pubsub.PubsubError as error:
            raise LeftOutError(f"{error.code}: {error}") from None

    # Processes

    @asynccontextmanager
    async def _kill(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        async with self._meeting(planned, name):
            await self._cluster.peers[name].kill()
            yield
            await self._cluster.peers[name].start()

    @asynccontextmanager
    async def _terminate(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        async with self._meeting(planned, name):
            self._cluster.peers[name].signal(signal.SIGTERM)
            await self._cluster.peers[name].ended()
            yield
            await self._cluster.peers[name].start()

    @asynccontextmanager
    async def _pause(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        async with self._meeting(planned, name), paused(self._cluster.peers[name]):
            yield

    @asynccontextmanager
    async def _kill_index(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = self._index(planned)
        async with self._meeting(planned, name):
            await self._cluster.indexes[name].kill()
            yield
            await self._cluster.indexes[name].start()

    @asynccontextmanager
    async def _pause_index(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = self._index(planned)
        async with self._meeting(planned, name), paused(self._cluster.indexes[name]):
            yield

    def _index(self, planned: PlannedFault) -> str:
        names = list(self._cluster.indexes)
        return names[planned.other % len(names)]

    # Network

    def _others(self, name: str) -> list[str]:
        return [other for other in (*self._cluster.peers, *self._cluster.indexes, CLIENT) if other != name]

    @asynccontextmanager
    async def _cut(self, planned: PlannedFault, *names: str, ways: list[Way]) -> AsyncIterator[None]:
        async with self._meeting(planned, *names):
            self._cluster.network.cut(ways)
            yield
            self._cluster.network.heal(ways)

    @asynccontextmanager
    async def _cut_off(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        async with self._cut(planned, name, ways=both(name, self._others(name))):
            yield

    @asynccontextmanager
    async def _silence(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        ways = both(name, self._others(name))
        async with self._meeting(planned, name):
            self._cluster.network.silence(ways)
            yield
            self._cluster.network.heal(ways)

    @asynccontextmanager
    async def _unreachable(self, planned: PlannedFault) -> AsyncIterator[None]:
        """What others send it gets nowhere; what it sends arrives."""
        name = await self._peer(planned)
        ways = [(other, name) for other in self._others(name)]
        async with self._meeting(planned, name):
            self._cluster.network.silence(ways)
            yield
            self._cluster.network.heal(ways)

    @asynccontextmanager
    async def _without_index(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        async with self._cut(planned, name, ways=both(name, list(self._cluster.indexes))):
            yield

    @asynccontextmanager
    async def _apart(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        other = [peer for peer in self._cluster.peers if peer != name][planned.other % 4]
        async with self._cut(planned, name, other, ways=both(name, [other])):
            yield

    @asynccontextmanager
    async def _flap(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        ways = both(name, self._others(name))

        async def flap() -> None:
            while True:
                self._cluster.network.cut(ways)
                try:
                    await asyncio.sleep(FLAPS_SECONDS)
                finally:
                    self._cluster.network.heal(ways)
                await asyncio.sleep(FLAPS_SECONDS)

        async with self._meeting(planned, name):
            flapping = asyncio.create_task(flap(), name=f"flap {name}")
            yield
            flapping.cancel()
            await asyncio.wait([flapping])

    # Disks

    @asynccontextmanager
    async def _disk_full(self, planned: PlannedFault) -> AsyncIterator[None]:
        name = await self._peer(planned)
        async with self._meeting(planned, name):
            process = psutil.Process(self._cluster.peers[name].pid)
            process.rlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
            yield
            process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    @asynccontextmanager
    async def _flip_bytes(self, planned: PlannedFault) -> AsyncIterator[None]:
        """A few bytes in the second half of a killed peer's file, where messages are."""
        name = await self._peer(planned)
        async with self._meeting(planned, name):
            await self._cluster.peers[name].kill()
            chance = random.Random(str(planned))
            with self._cluster.database(name).open("r+b") as file:
                size = file.seek(0, 2)
                for _ in range(4):
                    place = chance.randrange(size // 2, size)
                    file.seek(place)
                    byte = file.read(1)[0]
                    file.seek(place)
                    file.write(bytes([byte ^ (1 << chance.randrange(8))]))
            yield
            await self._cluster.peers[name].start()

    # Redis

    @asynccontextmanager
    async def _flush_redis(self, planned: PlannedFault) -> AsyncIterator[None]:
        async with self._meeting(planned, "redis"):
            await asyncio.to_thread(self._cluster.flush)
            yield

    @asynccontextmanager
    async def _stop_redis(self, planned: PlannedFault) -> AsyncIterator[None]:
        async with self._meeting(planned, "redis"):
            self._cluster.redis.stop()
            yield
            await asyncio.to_thread(self._cluster.start_redis, old=planned.kind == "old redis")

    # Replicas

    @asynccontextmanager
    async def _change_replicas(self, planned: PlannedFault) -> AsyncIterator[None]:
        info = await self._topic(planned)
        absent = [peer for peer in self._cluster.peers if peer not in info.replicas]
        add = [absent[planned.other % len(absent)]] if absent and planned.kind != "remove replica" else []
        remove = []
        if planned.kind != "add replica":
            remove = [info.replicas[planned.other % len(info.replicas)]]
        if not (add or remove) or len(info.replicas) + len(add) - len(remove) < 3:
            raise LeftOutError(f"{info.topic} is on {', '.join(info.replicas)}")
        try:
            await self.client.change_replicas(info.topic, add=add, remove=remove)
        except pubsub.PubsubError as error:
            raise LeftOutError(f"{error.code}: {error}") from None
        self._note(f"{planned.kind} of {info.topic}: add {add}, remove {remove}")
        yield


@asynccontextmanager
async def paused(command: Command) -> AsyncIterator[None]:
    command.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        command.signal(signal.SIGCONT)


def both(name: str, others: list[str]) -> list[Way]:
    return [way for other in others for way in ((name, other), (other, name))]
