"""What is asked of the registry so that a lookup knows who is alive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

import pytest

from pubsub.index.peer_table import PeerTable
from pubsub.registry import Heartbeat, PeerRecord, PeerState
from pubsub.registry.embedded import EmbeddedRegistry

TTL_SECONDS = 6.0
SECOND = 1_000_000


class CountingRegistry(EmbeddedRegistry):
    """Counts what is read."""

    records = 0
    scores = 0

    async def peers(self, now: int, names: Collection[str] | None = None) -> list[PeerState]:
        found = await super().peers(now, names)
        self.records += len(found)
        return found

    async def deadlines(self, names: Collection[str] | None = None) -> dict[str, int]:
        found = await super().deadlines(names)
        self.scores += len(found)
        return found


class Site:
    """A registry with some peers, a table, and the time of both."""

    def __init__(self, registry: CountingRegistry) -> None:
        self.registry = registry
        self.now = 1_000 * SECOND
        self.table = PeerTable(registry, TTL_SECONDS, lambda: self.now)

    async def register(self, *names: str) -> None:
        for name in names:
            record = PeerRecord(
                name=name,
                address="127.0.0.1:5",
                incarnation=f"{name}.1",
                version="1",
                started_at=self.now,
                heartbeat_at=self.now,
            )
            await self.registry.register_peer(record, TTL_SECONDS, self.now)

    async def beat(self, *names: str) -> None:
        beats = [Heartbeat(name=name, incarnation=f"{name}.1") for name in names]
        await self.registry.heartbeat(beats, TTL_SECONDS, self.now)

    def reads(self) -> tuple[int, int]:
        """Records and deadlines read since the last call."""
        read = self.registry.records, self.registry.scores
        self.registry.records = self.registry.scores = 0
        return read


@asynccontextmanager
async def open_site() -> AsyncGenerator[Site, None]:
    registry = CountingRegistry("127.0.0.1:0")
    await registry.open()
    try:
        yield Site(registry)
    finally:
        await registry.close()


async def test_a_lookup_reads_no_records_of_peers_that_nothing_happened_to():
    names = [f"p{number}" for number in range(250)]
    async with open_site() as site:
        await site.register(*names)
        await site.table.fresh()
        assert site.reads()[0] == 250
        for _ in range(20):
            site.now += SECOND
            await site.beat(*names)
            await site.table.fresh()
            assert all(site.table.standing(name).alive for name in names)
        records, deadlines = site.reads()
        assert records == 0
        assert deadlines <= 250 * 5


async def test_a_dead_peer_is_dead_when_its_deadline_passes_and_alive_when_it_registers_again():
    async with open_site() as site:
        await site.register("alice", "bob")
        await site.table.fresh()
        site.now += 5 * SECOND
        await site.beat("bob")
        site.now += 2 * SECOND
        await site.table.fresh()
        assert (site.table.standing("alice").alive, site.table.standing("bob").alive) == (False, True)
        await site.register("alice")
        site.table.doubt(["alice"])  # as its event does
        await site.table.fresh()
        assert site.table.standing("alice").alive


async def test_dead_peers_cost_lookups_next_to_nothing():
    names = [f"p{number}" for number in range(250)]
    async with open_site() as site:
        await site.register(*names)
        await site.table.fresh()
        site.now += 10 * SECOND
        await site.table.fresh()
        site.reads()
        for _ in range(20):
            site.now += SECOND // 4
            await site.table.fresh()
        assert site.reads() == (0, 0)


async def test_who_said_goodbye_is_gone():
    async with open_site() as site:
        await site.register("alice", "bob")
        await site.table.fresh()
        await site.registry.remove_peer("alice", "alice.1")
        site.now += 6 * SECOND
        assert set(await site.table.fresh()) == {"bob"}


async def test_a_peer_that_an_event_named_is_read_whole():
    async with open_site() as site:
        await site.register("alice", "bob")
        await site.table.fresh()
        site.reads()
        site.table.doubt(["bob"])
        await site.table.fresh()
        assert site.reads() == (1, 0)


@pytest.mark.parametrize("seconds", [0.5, 1.5])
async def test_load_is_read_again_where_it_is_asked_for_and_is_old(seconds: float):
    async with open_site() as site:
        await site.register("alice", "bob")
        await site.table.loaded()
        site.reads()
        site.now += int(seconds * SECOND)
        await site.table.loaded()
        assert site.reads()[0] == (0 if seconds < TTL_SECONDS / 6 else 2)
